//! DNS against real name servers: bind9, with records added live, and dnsmasq.

use crate::{config, ids, next};
use mesh_discovery::{Dns, Resolve, Update, Watch};
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use testkit::parts;

/// A program of this test, ended with it.
struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(child.spawn().expect("the program starts"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn folder(test: &str) -> PathBuf {
    let path =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a directory for the test");
    path
}

/// A port that is free for UDP and TCP at this moment; these servers cannot pick one themselves.
fn port() -> u16 {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a UDP port");
        let address = udp.local_addr().expect("bound");
        if TcpListener::bind(address).is_ok() {
            return address.port();
        }
    }
}

fn watch(port: u16, host: &str, of: Option<u16>) -> Watch {
    let config = config(&[SocketAddr::from((Ipv4Addr::LOCALHOST, port))]);
    Dns::new(config).resolver(host, of).watch()
}

/// The next set, past failures: the server may not be up yet.
async fn set(watch: &mut Watch) -> Vec<(String, u32, u32, usize)> {
    loop {
        if let Update::Endpoints(set) = next(watch).await {
            return set
                .iter()
                .map(|spec| (spec.id.to_string(), spec.priority, spec.weight, spec.addresses.len()))
                .collect();
        }
    }
}

const ZONE: &str = "\
$TTL 1
@         SOA ns admin 1 3600 600 86400 1
@         NS  ns
ns        A   10.0.0.53
web       A   10.0.0.1
web       A   10.0.0.2
web       AAAA fd00::1
alias     CNAME web
a         A   10.0.1.1
a         AAAA fd00::1:1
b         A   10.0.1.2
_web._tcp SRV 0 3 8080 a
_web._tcp SRV 0 1 8081 b
_web._tcp SRV 9 1 8082 b
";

#[tokio::test]
async fn bind9_serves_addresses_aliases_services_and_live_changes() {
    const TEST: &str = "bind9_serves_addresses_aliases_services_and_live_changes";
    let (Some(named), Some(nsupdate)) = (parts::find(TEST, "named"), parts::find(TEST, "nsupdate"))
    else {
        return;
    };
    let folder = folder("bind9");
    let port = port();
    let home = folder.display();
    fs::write(folder.join("zone"), ZONE).expect("write");
    fs::write(
        folder.join("named.conf"),
        format!(
            "options {{ directory \"{home}\"; pid-file \"{home}/pid\"; \
             session-keyfile \"{home}/key\"; listen-on port {port} {{ 127.0.0.1; }}; \
             listen-on-v6 {{ none; }}; recursion no; dnssec-validation no; }};\n\
             controls {{ }};\n\
             zone \"mesh.test\" {{ type primary; file \"{home}/zone\"; \
             allow-update {{ 127.0.0.1; }}; }};\n"
        ),
    )
    .expect("write");
    let _named =
        Program::start(Command::new(named).arg("-g").arg("-c").arg(folder.join("named.conf")));

    let mut web = watch(port, "web.mesh.test", Some(80));
    assert_eq!(ids(&mut web).await, ["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80"]);
    let mut alias = watch(port, "alias.mesh.test", Some(81));
    assert_eq!(ids(&mut alias).await, ["10.0.0.1:81", "10.0.0.2:81", "[fd00::1]:81"]);
    let mut services = watch(port, "_web._tcp.mesh.test", None);
    assert_eq!(
        set(&mut services).await,
        [
            ("10.0.1.1:8080".to_owned(), 0, 3, 2),
            ("10.0.1.2:8081".to_owned(), 0, 1, 1),
            ("10.0.1.2:8082".to_owned(), 9, 1, 1),
        ]
    );

    let update = |commands: &str| {
        let mut child =
            Command::new(&nsupdate).stdin(Stdio::piped()).spawn().expect("nsupdate starts");
        let script = format!("server 127.0.0.1 {port}\nzone mesh.test\n{commands}send\n");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(script.as_bytes()).expect("nsupdate reads");
        drop(stdin);
        assert!(child.wait().expect("nsupdate ends").success());
    };
    update("update add web.mesh.test 1 A 10.0.0.3\nupdate delete web.mesh.test A 10.0.0.1\n");
    assert_eq!(ids(&mut web).await, ["10.0.0.2:80", "10.0.0.3:80", "[fd00::1]:80"]);
    assert_eq!(ids(&mut alias).await, ["10.0.0.2:81", "10.0.0.3:81", "[fd00::1]:81"]);

    // More than one datagram carries: bind9 truncates, and TCP brings the rest.
    let many: String =
        (0..95).map(|n| format!("update add many.mesh.test 1 A 10.2.0.{n}\n")).collect();
    update(&many);
    assert_eq!(ids(&mut watch(port, "many.mesh.test", Some(80))).await.len(), 95);

    update("update delete web.mesh.test\n");
    assert_eq!(ids(&mut web).await, Vec::<String>::new(), "NXDOMAIN, three times");
    let _ = fs::remove_dir_all(folder);
}

#[tokio::test]
async fn dnsmasq_serves_addresses_and_services() {
    const TEST: &str = "dnsmasq_serves_addresses_and_services";
    let Some(dnsmasq) = parts::find(TEST, "dnsmasq") else { return };
    let folder = folder("dnsmasq");
    let port = port();
    let _dnsmasq = Program::start(
        Command::new(dnsmasq)
            .args(["-k", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"])
            .args(["--listen-address=127.0.0.1", "--bind-interfaces", "--local-ttl=1"])
            .args([
                "--host-record=web1.dm.test,10.0.0.2,fd00::2",
                "--address=/web.dm.test/10.0.0.7",
            ])
            .arg("--srv-host=_web._tcp.dm.test,web1.dm.test,8080,10,60")
            .arg(format!("--port={port}"))
            .arg(format!("--pid-file={}", folder.join("pid").display())),
    );
    assert_eq!(ids(&mut watch(port, "web.dm.test", Some(80))).await, ["10.0.0.7:80"]);
    assert_eq!(
        set(&mut watch(port, "_web._tcp.dm.test", None)).await,
        [("10.0.0.2:8080".to_owned(), 10, 60, 2)]
    );
    let _ = fs::remove_dir_all(folder);
}
