use super::*;
use CheckStatus::{Critical, Passing};

fn local() -> Local {
    Local::new(Node { name: "n1".into(), address: "10.0.0.1".into(), ..Node::default() })
}

fn service(id: &str, port: u16) -> Service {
    let instance =
        NodeService { id: id.into(), name: "web".into(), port, ..NodeService::default() };
    Service::new(instance, Source::Api, Token::default())
}

fn check(id: &str, service: &str) -> Check {
    let health = HealthCheck {
        node: "n1".into(),
        id: id.into(),
        service_id: service.into(),
        service_name: if service.is_empty() { "" } else { "web" }.into(),
        ..HealthCheck::default()
    };
    Check::new(health, Source::Api, Token::default())
}

/// The jobs in words; the catalog takes all of them.
fn bring(local: &mut Local, now: Instant) -> Vec<String> {
    let jobs = local.jobs(now);
    let names = |job: &Job| match job {
        Job::Register(what, _) => {
            let checks = what.checks.iter().map(|check| format!(" +{}", check.id));
            format!("{}{}", job.names(), checks.collect::<String>())
        }
        Job::Deregister(..) => job.names(),
    };
    let said = jobs.iter().map(names).collect();
    for job in &jobs {
        match job {
            Job::Register(_, marks) => local.synced(marks),
            Job::Deregister(what, mark) => local.removed(&what.what, *mark),
        }
    }
    said
}

/// What the catalog has once it has all.
fn there(local: &Local) -> OfNode {
    OfNode {
        node: local.node.clone(),
        services: local.services.values().map(|service| service.instance.clone()).collect(),
        checks: local.checks.values().map(|check| check.health.clone()).collect(),
    }
}

const LAZILY: Duration = Duration::from_secs(300);

#[test]
fn a_service_goes_out_with_its_checks_and_then_nothing_does() {
    let (mut local, now) = (local(), Instant::now());
    local.put_service(service("web-1", 80));
    local.put_check(check("c1", "web-1"), now);
    local.put_check(check("disk", ""), now);
    assert!(!local.is_synced());
    assert_eq!(bring(&mut local, now), ["node", "service \"web-1\" +c1", "check \"disk\" +disk"]);
    assert!(local.is_synced());
    assert!(bring(&mut local, now).is_empty());

    // Registered again as it is: nothing to tell. With another port: the service alone.
    local.put_service(service("web-1", 80));
    assert!(bring(&mut local, now).is_empty());
    local.put_service(service("web-1", 81));
    assert_eq!(bring(&mut local, now), ["service \"web-1\""]);
    assert_eq!(local.remove_service("web-1"), ["c1"]);
    assert_eq!(bring(&mut local, now), ["removal of service \"web-1\""]);
    assert!(local.is_synced());
}

#[test]
fn what_changes_while_it_is_under_way_goes_out_again() {
    let (mut local, now) = (local(), Instant::now());
    local.put_service(service("web-1", 80));
    let generation = local.put_check(check("c1", "web-1"), now);
    let under_way = local.jobs(now);
    assert!(local.record("c1", generation, CheckResult::passing("up"), now, LAZILY));
    for job in &under_way {
        let Job::Register(_, marks) = job else { panic!("{job:?}") };
        local.synced(marks);
    }
    assert_eq!(bring(&mut local, now), ["check \"c1\" +c1"]);

    // A service that is removed and comes back while its removal is under way.
    local.remove_service("web-1");
    let under_way = local.jobs(now);
    local.put_service(service("web-1", 80));
    let [Job::Deregister(what, mark)] = &under_way[..] else { panic!("{under_way:?}") };
    bring(&mut local, now);
    local.removed(&what.what, *mark);
    assert_eq!(bring(&mut local, now), ["service \"web-1\""]);
}

#[test]
fn a_new_state_goes_at_once_and_a_new_output_later() {
    let (mut local, now) = (local(), Instant::now());
    let generation = local.put_check(check("c1", ""), now);
    bring(&mut local, now);
    let record = |local: &mut Local, result, at| local.record("c1", generation, result, at, LAZILY);
    assert!(record(&mut local, CheckResult::passing("1 ms"), now));
    assert_eq!(bring(&mut local, now), ["check \"c1\" +c1"]);

    assert!(record(&mut local, CheckResult::passing("2 ms"), now));
    assert!(!record(&mut local, CheckResult::passing("2 ms"), now));
    assert!(bring(&mut local, now).is_empty());
    // Further ones do not put it off.
    assert!(record(&mut local, CheckResult::passing("3 ms"), now + LAZILY / 2));
    assert_eq!(local.next_deferred(), Some(now + LAZILY));
    assert_eq!(bring(&mut local, now + LAZILY), ["check \"c1\" +c1"]);
    assert_eq!(local.next_deferred(), None);

    // A new state takes the output along.
    assert!(record(&mut local, CheckResult::passing("4 ms"), now));
    assert!(record(&mut local, CheckResult::critical("gone"), now));
    assert_eq!(local.next_deferred(), None);
    assert_eq!(bring(&mut local, now), ["check \"c1\" +c1"]);
}

#[test]
fn results_of_a_check_that_was_replaced_are_not_taken() {
    let (mut local, now) = (local(), Instant::now());
    let old = local.put_check(check("c1", ""), now);
    assert!(local.record("c1", old, CheckResult::passing("up"), now, LAZILY));
    let new = local.put_check(check("c1", ""), now);
    assert!(!local.record("c1", old, CheckResult::critical("late"), now, LAZILY));
    // How it stood still holds.
    assert_eq!(local.checks["c1"].health.status, Passing);
    assert_eq!(local.checks["c1"].health.output, "up");
    assert!(local.record("c1", new, CheckResult::critical("down"), now, LAZILY));
    local.remove_check("c1");
    assert!(!local.record("c1", new, CheckResult::passing("late"), now, LAZILY));
}

#[test]
fn the_whole_is_compared_and_what_differs_goes_out() {
    let (mut local, now) = (local(), Instant::now());
    for id in ["a", "b"] {
        local.put_service(service(id, 80));
        local.put_check(check(&format!("check-{id}"), id), now);
    }
    bring(&mut local, now);

    local.compare(Some(there(&local)));
    assert!(local.is_synced());

    let mut catalog = there(&local);
    catalog.services[0].port = 81;
    catalog.services[0].modify_index = 7;
    catalog.services[1].modify_index = 7;
    catalog.services.push(service("stray", 1).instance);
    catalog.checks[1].status = Passing;
    catalog.checks.push(check("stray's", "stray").health);
    catalog.checks.push(check("lost", "a").health);
    catalog.checks.push(check("serfHealth", "").health);
    local.compare(Some(catalog));
    assert_eq!(
        bring(&mut local, now),
        [
            "removal of service \"stray\"",
            "removal of check \"lost\"",
            "service \"a\"",
            "check \"check-b\" +check-b",
        ]
    );

    // A catalog that lost everything.
    local.compare(None);
    assert_eq!(
        bring(&mut local, now),
        ["node", "service \"a\" +check-a", "service \"b\" +check-b"]
    );
    // One that has the node otherwise.
    let mut catalog = there(&local);
    catalog.node.address = "10.9.9.9".into();
    local.compare(Some(catalog));
    assert_eq!(bring(&mut local, now), ["node"]);
}

#[test]
fn an_output_of_the_catalog_is_not_compared() {
    let (mut local, now) = (local(), Instant::now());
    local.put_check(check("c1", ""), now);
    bring(&mut local, now);
    let mut catalog = there(&local);
    catalog.checks[0].output = "older".into();
    local.compare(Some(catalog));
    assert!(local.is_synced());
}

#[test]
fn tags_that_others_may_change_come_from_the_catalog() {
    let (mut local, now) = (local(), Instant::now());
    for (id, others_may) in [("a", true), ("b", false)] {
        let mut service = service(id, 80);
        service.instance.enable_tag_override = others_may;
        local.put_service(service);
    }
    bring(&mut local, now);
    let hash = |local: &Local, id: &str| local.services[id].hash().to_owned();
    let before = [hash(&local, "a"), hash(&local, "b")];
    let mut catalog = there(&local);
    for service in &mut catalog.services {
        service.tags = vec!["theirs".into()];
    }
    local.compare(Some(catalog));
    assert_eq!(local.services["a"].instance.tags, ["theirs"]);
    assert_ne!(hash(&local, "a"), before[0]);
    assert_eq!(hash(&local, "b"), before[1]);
    assert_eq!(bring(&mut local, now), ["service \"b\""]);
}

#[test]
fn checks_with_a_token_of_their_own_go_by_themselves() {
    let (mut local, now) = (local(), Instant::now());
    local.put_service(service("a", 80));
    let mut own = check("own", "a");
    own.token = Token::new("t");
    local.put_check(own, now);
    local.put_check(check("along", "a"), now);
    assert_eq!(bring(&mut local, now), ["node", "service \"a\" +along", "check \"own\" +own"]);
}

#[test]
fn a_new_name_or_tag_of_a_service_reaches_its_checks() {
    let (mut local, now) = (local(), Instant::now());
    local.put_service(service("a", 80));
    local.put_check(check("c", "a"), now);
    bring(&mut local, now);
    let mut tagged = service("a", 80);
    tagged.instance.tags = vec!["v2".into()];
    local.put_service(tagged);
    assert_eq!(local.checks["c"].health.service_tags, ["v2"]);
    assert_eq!(bring(&mut local, now), ["service \"a\" +c"]);
}

#[test]
fn a_service_is_over_when_one_of_its_checks_is() {
    let (mut local, now) = (local(), Instant::now());
    local.put_service(service("a", 80));
    let after = |seconds| CheckDefinition {
        deregister_critical_service_after: crate::types::GoDuration(Duration::from_secs(seconds)),
        ..CheckDefinition::default()
    };
    let mut check_of_a = check("c", "a");
    check_of_a.definition = Some(after(90));
    let generation = local.put_check(check_of_a, now);
    let mut of_the_node = check("disk", "");
    of_the_node.definition = Some(after(60));
    local.put_check(of_the_node, now);

    let over =
        |local: &Local, seconds| local.critical_for_too_long(now + Duration::from_secs(seconds));
    assert!(over(&local, 89).is_empty());
    assert_eq!(over(&local, 90), BTreeSet::from(["a".to_owned()]));
    local.record("c", generation, CheckResult::passing(""), now, LAZILY);
    assert!(over(&local, 1_000).is_empty());
    assert_eq!(Local::worst(local.checks.values()), Critical);
}
