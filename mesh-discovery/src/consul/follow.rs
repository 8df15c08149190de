//! Follow: one question asked over and over by blocking queries, as [`Blocking`] says.

use super::Inner;
use super::blocking::Blocking;
use super::client::{Connection, Reply};
use form_urlencoded::Serializer;
use mesh_core::Timestamp;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use tokio::time::{Instant, sleep};

/// What is asked.
pub(super) struct Query {
    /// The path, escaped.
    pub(super) path: String,
    /// Its parameters besides those of blocking queries.
    pub(super) parameters: Vec<(&'static str, String)>,
}

impl Query {
    fn target(&self, blocking: Option<(u64, std::time::Duration)>) -> String {
        let mut query = Serializer::new(String::new());
        query.extend_pairs(self.parameters.iter().map(|(key, value)| (*key, value)));
        if let Some((index, wait)) = blocking {
            query.append_pair("index", &index.to_string());
            query.append_pair("wait", &format!("{}ms", wait.as_millis()));
        }
        match query.finish() {
            query if query.is_empty() => self.path.clone(),
            query => format!("{}?{query}", self.path),
        }
    }
}

/// Who hears the answers.
pub(super) trait Hear: Send {
    /// Takes an answer over.
    ///
    /// # Errors
    /// Why it cannot be used: then it counts as none.
    fn heard(&mut self, reply: &Reply) -> Result<(), String>;

    /// There is no answer for now; a sentence that names whom and what we asked.
    fn failed(&mut self, why: String);
}

/// Asks for ever.
pub(super) async fn follow(consul: Arc<Inner>, query: Query, mut who: impl Hear) {
    let start = Instant::now();
    let now = || Timestamp::ZERO + start.elapsed();
    let mut draws = consul.draws();
    let mut draw = move || draws.u64(..);
    let mut connection = Connection::new(consul.config.clone());
    let mut blocking = Blocking::new(consul.config.wait);
    let mut last = None;
    loop {
        sleep(blocking.pause(now())).await;
        let question = blocking.ask(now());
        let answer = connection.get(&query.target(question.blocking), question.timeout).await;
        let used = match answer {
            Ok(reply) => {
                let mut hasher = DefaultHasher::new();
                (reply.found, &reply.body).hash(&mut hasher);
                let seen = Some(hasher.finish());
                who.heard(&reply)
                    .map(|()| (reply.index, std::mem::replace(&mut last, seen) != seen))
            }
            Err(why) => Err(why),
        };
        match used {
            Ok((index, news)) => blocking.answered(index, news, now()),
            Err(why) => {
                who.failed(format!("{}{}: {why}", consul.config.address, query.path));
                sleep(blocking.failed(&mut draw)).await;
            }
        }
    }
}
