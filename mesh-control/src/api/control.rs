//! What the API asks of the process that it runs in.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

/// Reads the definition files again; an error is a sentence for whoever asked.
type Reload = dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync;

/// Leaving and reloading. A clone is the same.
#[derive(Clone)]
pub struct Control {
    leaving: watch::Sender<bool>,
    reload: Option<Arc<Reload>>,
}

impl Default for Control {
    fn default() -> Self {
        Self { leaving: watch::Sender::new(false), reload: None }
    }
}

impl Control {
    /// What reading the files again does. Without, there are no files, and nothing is to do.
    #[must_use]
    pub fn on_reload(
        self,
        reload: impl Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static,
    ) -> Self {
        Self { reload: Some(Arc::new(reload)), ..self }
    }

    /// Done when somebody has asked the server to leave.
    pub async fn left(&self) {
        // The sender is here, so that it cannot be gone.
        let _ = self.leaving.subscribe().wait_for(|leaving| *leaving).await;
    }

    pub(super) fn leave(&self) {
        self.leaving.send_replace(true);
    }

    pub(super) async fn reload(&self) -> Result<(), String> {
        match &self.reload {
            Some(reload) => reload().await,
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("leaving", &*self.leaving.borrow()).finish_non_exhaustive()
    }
}
