//! Starts the processes of the demo on free ports of loopback, and the files they read.

use crate::certificates::{Authority, Identity};
use crate::child::Child;
use crate::phase::Names;
use crate::services::counting::Fault;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One instance of counting, with its sidecar if it has one.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) name: &'static str,
    /// Where the mesh reaches it.
    pub(crate) address: SocketAddr,
    pub(crate) what: &'static str,
    control: SocketAddr,
    service: Child,
    sidecar: Option<Child>,
}

/// Everything that runs. Dropping it ends all of it and removes its folder.
#[derive(Debug)]
pub(crate) struct Processes {
    pub(crate) dashboard: SocketAddr,
    pub(crate) counting: Vec<Instance>,
    _others: Vec<Child>,
    // After the children, which write into it.
    _folder: Folder,
}

impl Processes {
    pub(crate) async fn start(length: Duration) -> io::Result<Self> {
        let folder = Folder::new()?;
        let path = folder.0.as_path();
        let authority = Authority::new(path)?;
        let (own, client) = (authority.issue("counting")?, authority.issue("dashboard")?);
        let mut counting = vec![
            Instance::linked("a", &own, path)?,
            Instance::beside_sidecar("b", &own, path)?,
            Instance::beside_sidecar("c", &own, path)?,
        ];

        let greeter = free_address()?;
        let args = arguments(&["greeter", "--listen", &greeter.to_string()]);
        let mut greeter_child = Child::start("greeter", args, path)?;

        let config = path.join("mesh.yaml");
        let addresses: Vec<String> = counting.iter().map(|one| one.address.to_string()).collect();
        std::fs::write(&config, configuration(&addresses.join(", "), greeter, &client, length))?;

        let dashboard = free_address()?;
        let mut args = arguments(&["dashboard", "--listen", &dashboard.to_string()]);
        args.extend(arguments(&["--config", &text(&config)]));
        args.extend(arguments(&["--counting", &addresses.join(",")]));
        args.extend(mtls(&client));
        let mut dashboard_child = Child::start("dashboard", args, path)?;

        for instance in &mut counting {
            instance.listening().await?;
        }
        greeter_child.listening(greeter).await?;
        dashboard_child.listening(dashboard).await?;
        let _others = vec![greeter_child, dashboard_child];
        Ok(Self { dashboard, counting, _others, _folder: folder })
    }
}

impl Processes {
    pub(crate) fn names(&self) -> Names {
        self.counting.iter().map(|one| (one.address.to_string(), one.name)).collect()
    }
}

impl Instance {
    /// Links the mesh and serves mTLS by itself.
    fn linked(name: &'static str, own: &Identity, folder: &Path) -> io::Result<Self> {
        let (address, control) = (free_address()?, free_address()?);
        let mut args = counting(name, address, control);
        args.extend(mtls(own));
        let service = Child::start(&format!("counting {name}"), args, folder)?;
        Ok(Self { name, address, what: "linked", control, service, sidecar: None })
    }

    /// Serves plain HTTP, and knows nothing of the mesh; its sidecar serves mTLS.
    fn beside_sidecar(name: &'static str, own: &Identity, folder: &Path) -> io::Result<Self> {
        let (address, plain, control) = (free_address()?, free_address()?, free_address()?);
        let args = counting(name, plain, control);
        let service = Child::start(&format!("counting {name}"), args, folder)?;
        let (address_text, plain_text) = (address.to_string(), plain.to_string());
        let mut args =
            arguments(&["sidecar", "--listen", &address_text, "--upstream", &plain_text]);
        args.extend(arguments(&["--tls-cert", &text(&own.cert), "--tls-key", &text(&own.key)]));
        args.extend(arguments(&["--tls-client-ca", &text(&own.ca), "--workers", "1"]));
        args.extend(arguments(&["--admin", "127.0.0.1:0"]));
        let sidecar = Some(Child::start(&format!("sidecar {name}"), args, folder)?);
        Ok(Self { name, address, what: "sidecar", control, service, sidecar })
    }

    async fn listening(&mut self) -> io::Result<()> {
        self.service.listening(self.control).await?;
        self.sidecar.as_mut().unwrap_or(&mut self.service).listening(self.address).await
    }

    /// Plants a fault, or heals with the default one.
    pub(crate) async fn plant(&self, fault: &Fault) -> io::Result<()> {
        let request = format!(
            "POST /fault?failing={}&delay_ms={} HTTP/1.1\r\nhost: control\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            fault.failing, fault.delay_ms,
        );
        let mut stream = TcpStream::connect(self.control).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        if answer.starts_with("HTTP/1.1 200") {
            Ok(())
        } else {
            Err(io::Error::other(format!("counting {} refused the fault: {answer}", self.name)))
        }
    }

    /// As `kill -9`.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        self.service.kill().await
    }

    /// The same instance again, on the same address.
    pub(crate) async fn restart(&mut self) -> io::Result<()> {
        self.service.restart()?;
        self.listening().await
    }
}

/// A folder that is removed with this, because of the keys in it.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("mesh-demo-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure; the keys in it are worth nothing after the demo.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The dashboard's mesh. All that is not written here has its default.
fn configuration(
    counting: &str,
    greeter: SocketAddr,
    client: &Identity,
    length: Duration,
) -> String {
    let [ca, cert, key] = [&client.ca, &client.cert, &client.key].map(|path| text(path));
    let share = |of| span(length / of);
    let (ejection, sweep, decay) = (span(length * 11 / 50), share(200), share(30));
    format!(
        "\
apiVersion: mesh/v1
kind: Service
metadata: {{ name: counting }}
spec:
  endpoints: {{ static: [{counting}] }}
  tls: {{ serverName: counting, ca: {ca:?}, cert: {cert:?}, key: {key:?} }}
---
apiVersion: mesh/v1
kind: Service
metadata: {{ name: greeter }}
spec:
  endpoints: {{ static: [{greeter}] }}
  appProtocol: grpc
---
# Spans are shorter than the defaults, and one failure ejects, so that a short demo shows how an
# endpoint goes and returns. By default the balancer alone would keep calls from it for a minute.
apiVersion: mesh/v1
kind: TrafficPolicy
metadata: {{ name: counting }}
spec:
  targetRef: {{ kind: Service, name: counting }}
  outlier:
    consecutive5xx: 1
    splitExternalLocalOriginErrors: true
    baseEjectionTime: {ejection}
    interval: {sweep}
  pick: {{ policy: PeakEwma, ewma: {{ decay: {decay} }} }}
"
    )
}

/// As the configuration writes spans.
fn span(span: Duration) -> String {
    format!("{}s{}ms", span.as_secs(), span.subsec_millis())
}

fn counting(name: &str, listen: SocketAddr, control: SocketAddr) -> Vec<String> {
    let (listen, control) = (listen.to_string(), control.to_string());
    arguments(&["counting", "--name", name, "--listen", &listen, "--control", &control])
}

fn mtls(identity: &Identity) -> Vec<String> {
    arguments(&["--mtls", &text(&identity.cert), &text(&identity.key), &text(&identity.ca)])
}

fn arguments(all: &[&str]) -> Vec<String> {
    all.iter().copied().map(str::to_owned).collect()
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
