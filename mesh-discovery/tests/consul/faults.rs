//! What a server may do that Consul does not do when asked.

use crate::server::{Asked, Reply, Server};
use crate::{PATIENCE, consul, failure, ids, next, web};
use mesh_core::snapshot::ConsulService;
use mesh_discovery::consul::{Config, Token};
use mesh_discovery::{Consul, Resolve, Update};
use std::time::Duration;
use testkit::until;

/// `replies` one after the other, then nothing.
fn script(replies: Vec<Reply>) -> impl FnMut(usize, &Asked) -> Reply + Send + 'static {
    move |number, _| replies.get(number).cloned().unwrap_or(Reply::Hang)
}

#[tokio::test]
async fn each_question_waits_for_the_index_of_the_last_answer_to_pass() {
    let server = Server::start(script(vec![
        Reply::web(7, &[1]),
        Reply::web(9, &[1, 2]),
        Reply::web(9, &[1, 2]),
        Reply::web(12, &[2]),
    ]))
    .await;
    let mut watch = web(server.address);
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:1"]);
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:1", "10.0.0.1:2"]);
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:2"], "an answer without news is not told");
    until("the fifth question", || server.asked().len() == 5).await;
    let asked = server.asked();
    let indexes: Vec<Option<u64>> = asked.iter().map(Asked::index).collect();
    assert_eq!(indexes, [None, Some(7), Some(9), Some(9), Some(12)]);
    assert_eq!(asked[0].target, "/v1/health/service/web");
    assert_eq!(asked[1].target, "/v1/health/service/web?index=7&wait=300000ms");
    assert!(asked.iter().all(|asked| asked.connection == 0), "one connection");
}

#[tokio::test]
async fn an_index_that_goes_down_is_not_waited_for() {
    let server = Server::start(script(vec![
        Reply::web(900, &[1]),
        Reply::web(3, &[2]),
        Reply::web(3, &[2]),
        Reply::web(0, &[3]),
        Reply::web(0, &[4]),
    ]))
    .await;
    let mut watch = web(server.address);
    for id in ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3", "10.0.0.1:4"] {
        assert_eq!(ids(&mut watch).await, [id]);
    }
    until("the sixth question", || server.asked().len() == 6).await;
    let indexes: Vec<Option<u64>> = server.asked().iter().map(Asked::index).collect();
    assert_eq!(indexes, [None, Some(900), None, Some(3), None, Some(1)]);
}

#[tokio::test]
async fn what_is_no_whole_answer_changes_nothing_and_is_told_with_its_reason() {
    let ok = |length: usize, body: &str| {
        format!("HTTP/1.1 200 OK\r\nX-Consul-Index: 8\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    let deep = format!("[{{\"Node\":{{\"Meta\":{}", "[".repeat(200_000));
    for (reply, why) in [
        (
            Reply::error("500 Internal Server Error", "No cluster leader"),
            "500 Internal Server Error: No cluster leader",
        ),
        (Reply::error("403 Forbidden", "Permission denied"), "403 Forbidden: Permission denied"),
        (Reply::error("404 Not Found", ""), "without X-Consul-Index"),
        (
            Reply::error("200 OK", "[]"),
            "without X-Consul-Index: whoever answers there is no Consul",
        ),
        (
            Reply::error("301 Moved Permanently\r\nLocation: http://10.0.0.1/", ""),
            "301 Moved Permanently",
        ),
        (Reply::Cut(ok(500, "[{\"Node\":{")), "its answer breaks off"),
        (Reply::Cut(ok(9, "[]")), "its answer breaks off"),
        (Reply::Cut(String::new()), "connection closed"),
        (Reply::Cut("SSH-2.0-OpenSSH_9.2\r\n".to_owned()), "invalid HTTP version"),
        (Reply::Raw(ok(3, "[{}")), "its answer is no list of instances"),
        (Reply::Raw(ok(2, "{}")), "its answer is no list of instances"),
        (Reply::Json(8, deep), "its answer is no list of instances"),
        (
            Reply::Json(8, r#"[{"Node":{"Node":"vm"},"Service":{"ID":"w","Port":80}}]"#.to_owned()),
            "none of its 1 instances can be called",
        ),
        (Reply::Raw(ok(1 << 30, "[")), "its answer is larger than 1000000 bytes"),
    ] {
        let replies = vec![Reply::web(7, &[1]), reply.clone(), Reply::web(9, &[1])];
        let server = Server::start(script(replies)).await;
        let mut config = consul(server.address).config().clone();
        config.max_answer = 1_000_000;
        let mut watch = Consul::new(config).service(ConsulService::new("web")).watch();
        assert_eq!(ids(&mut watch).await, ["10.0.0.1:1"]);
        let told = failure(&mut watch).await.to_string();
        let whom = format!("http://{}/v1/health/service/web: ", server.address);
        assert!(told.starts_with(&whom) && told.contains(why), "{why}: {told}");
        assert!(told.len() < 400, "{told}");
        assert_eq!(ids(&mut watch).await, ["10.0.0.1:1"], "the end of the failure is told");
        assert_eq!(server.asked()[2].index(), None, "the answer is wanted at once");
    }
}

#[tokio::test]
async fn a_failure_that_lasts_is_told_once_and_asked_about_less_and_less_often() {
    let server =
        Server::start(|_, _| Reply::error("500 Internal Server Error", "No cluster leader")).await;
    let mut watch = web(server.address);
    failure(&mut watch).await;
    let more = tokio::time::timeout(Duration::from_secs(3), watch.changed()).await;
    assert!(more.is_err(), "{more:?}");
    // Drawn from twice as long each time: 0.05 s at the least, and 6 s in all after six.
    let asked = server.asked().len();
    assert!((2..=20).contains(&asked), "{asked} questions in 3 s");
}

#[tokio::test]
async fn a_server_that_does_not_wait_is_asked_once_a_second() {
    let server = Server::start(|_, _| Reply::web(7, &[1])).await;
    let mut watch = web(server.address);
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:1"]);
    let more = tokio::time::timeout(Duration::from_secs(2), watch.changed()).await;
    assert!(more.is_err(), "{more:?}");
    let asked = server.asked().len();
    assert!(asked <= 5, "{asked} questions in 2 s");
}

#[tokio::test]
async fn a_connection_that_was_closed_between_questions_is_opened_again_without_a_word() {
    let closing = |index: u64, ports: &[u16]| {
        let Reply::Json(_, body) = Reply::web(index, ports) else { unreachable!() };
        let length = body.len();
        Reply::Cut(format!(
            "HTTP/1.1 200 OK\r\nX-Consul-Index: {index}\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        ))
    };
    let replies = vec![closing(7, &[1]), closing(8, &[2]), closing(9, &[3])];
    let server = Server::start(script(replies)).await;
    let mut watch = web(server.address);
    for id in ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"] {
        match next(&mut watch).await {
            Update::Endpoints(specs) => assert_eq!(specs[0].id.as_str(), id),
            other => panic!("no failure was due: {other:?}"),
        }
    }
    assert_eq!(server.asked()[2].connection, 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_is_given_up_after_its_time() {
    let server = Server::start(|number, _| match number {
        1 => Reply::web(7, &[1]),
        _ => Reply::Hang,
    })
    .await;
    let mut config = consul(server.address).config().clone();
    config.wait = Duration::from_secs(160);
    let mut watch = Consul::new(config).service(ConsulService::new("web")).watch();
    let told = |watch: Option<Update>| match watch {
        Some(Update::Failed(failure)) => failure.to_string(),
        other => panic!("a failure was due, not {other:?}"),
    };
    assert!(told(watch.changed().await).ends_with("no answer within 10s"));
    assert!(matches!(watch.changed().await, Some(Update::Endpoints(_))));
    let start = tokio::time::Instant::now();
    assert!(told(watch.changed().await).ends_with("no answer within 180s"));
    assert!(start.elapsed() >= Duration::from_secs(179), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_found_when_it_comes() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let mut watch = web(address);
    let told = failure(&mut watch).await.to_string();
    assert!(told.contains("cannot connect: Connection refused"), "{told}");
}

#[tokio::test]
async fn the_question_names_tags_datacenter_filter_and_token() {
    let server = Server::start(|_, _| Reply::web(7, &[1])).await;
    let mut config = Config::default();
    config.address = server.address.to_string().parse().expect("an address");
    config.token = Some(Token::new("5ec4e7").expect("a token"));
    config.datacenter = Some("dc1".to_owned());
    let mut service = ConsulService::new("w/e b");
    service.tags = vec!["v1".to_owned(), "a&b=c".to_owned()];
    service.only_passing = true;
    service.filter = Some(r#"Service.Meta.version == "2""#.to_owned());
    let consul = Consul::new(config);
    assert!(!format!("{consul:?}").contains("5ec4e7"), "{consul:?}");
    let mut watch = consul.service(service.clone()).watch();
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:1"]);
    let asked = &server.asked()[0];
    assert_eq!(
        asked.target,
        "/v1/health/service/w%2Fe%20b?tag=v1&tag=a%26b%3Dc&dc=dc1&passing=1\
         &filter=Service.Meta.version+%3D%3D+%222%22"
    );
    assert!(asked.head.to_lowercase().contains("x-consul-token: 5ec4e7"), "{}", asked.head);
    service.datacenter = Some("dc2".to_owned());
    let mut watch = consul.service(service).watch();
    ids(&mut watch).await;
    let asked = server.asked();
    assert!(asked.iter().any(|asked| asked.target.contains("dc=dc2")), "{asked:?}");
}

#[tokio::test]
async fn dropping_the_watch_closes_the_connection() {
    let server = Server::start(script(vec![Reply::web(7, &[1])])).await;
    let consul = consul(server.address);
    let mut watch = consul.service(ConsulService::new("web")).watch();
    ids(&mut watch).await;
    until("the second question", || server.asked().len() == 2).await;
    let before = open_connections(server.address).await;
    drop(watch);
    let gone = async {
        while open_connections(server.address).await >= before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it is closed");
}

/// Connections of this process to an address, by the kernel's table.
async fn open_connections(address: std::net::SocketAddr) -> usize {
    let port = format!("0100007F:{:04X}", address.port());
    let table = tokio::fs::read_to_string("/proc/net/tcp").await.expect("Linux");
    table
        .lines()
        .filter(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.get(2) == Some(&&*port) && fields.get(3) == Some(&"01")
        })
        .count()
}
