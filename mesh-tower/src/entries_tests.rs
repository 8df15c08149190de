use super::*;
use mesh_core::config::AppProtocol;
use mesh_core::route::RouteRequest;

fn entry(kind: &'static str, value: &Value) -> Entry {
    let name = value["Name"].as_str().unwrap_or_default();
    let mut value = value.clone();
    value["Kind"] = kind.into();
    Entry::new(kind, name, value.clone())
}

fn splitter(name: &str, to: &[(u32, &str)]) -> Entry {
    let splits: Vec<Value> =
        to.iter().map(|(weight, to)| json!({ "Weight": weight, "Service": to })).collect();
    entry("service-splitter", &json!({ "Name": name, "Splits": splits }))
}

/// The shares of `web`, in the order of draws.
fn shares(settled: &Settled) -> Vec<String> {
    let (method, headers) = (http::Method::GET, http::HeaderMap::new());
    let request = RouteRequest::new("web", &method, "/", None, &headers);
    let mut seen = Vec::new();
    for step in 0..100u64 {
        let mut draw = move || step * (u64::MAX / 100);
        let Ok(routed) = settled.snapshot.route(&request, &mut draw) else { continue };
        let to = settled.snapshot.destinations()[routed.backend.destination.index()].name.name();
        if seen.last().map(String::as_str) != Some(to) {
            seen.push(to.to_owned());
        }
    }
    seen
}

fn settle(entries: &mut Entries, wanted: Vec<Entry>, files: &str) -> Result<Settled, Errors> {
    entries.wanted = wanted;
    let settled = entries.settle(&[Source::new("mesh.yaml", files)], 1)?;
    entries.good.clone_from(&settled.good);
    Ok(settled)
}

#[test]
fn services_of_entries_are_those_of_the_catalog_unless_a_file_has_them() {
    let files = "apiVersion: mesh/v1\nkind: Service\nmetadata: { name: old }\n\
                 spec: { endpoints: { static: ['127.0.0.1:1'] } }\n";
    let defaults = |name: &str, protocol: &str| {
        entry("service-defaults", &json!({ "Name": name, "Protocol": protocol, "Expose": {} }))
    };
    let wanted = vec![
        defaults("new", "grpc"),
        defaults("nobody", "grpc"),
        splitter("web", &[(50, "old"), (50, "new")]),
    ];
    let settled = settle(&mut Entries::default(), wanted, files).expect("it fits");
    assert_eq!(settled.refused, []);
    let told: Vec<(String, String, AppProtocol)> = settled
        .snapshot
        .destinations()
        .iter()
        .map(|it| (it.name.to_string(), it.endpoints.to_string(), it.app_protocol))
        .collect();
    let of =
        |name: &str, endpoints: &str, protocol| (name.to_owned(), endpoints.to_owned(), protocol);
    let wanted = [
        of("old", "a list of 1", AppProtocol::Http),
        of("new", "consul://new", AppProtocol::Grpc),
        of("web", "consul://web", AppProtocol::Http),
    ];
    assert_eq!(told, wanted);
    assert_eq!(shares(&settled), ["old", "new"]);
}

#[test]
fn a_bad_entry_keeps_its_last_good_form_and_says_why() {
    let mut entries = Entries::default();
    let good = splitter("web", &[(100, "a")]);
    settle(&mut entries, vec![good.clone()], "").expect("it fits");
    let other = splitter("shop", &[(100, "b")]);
    for (bad, why) in [
        (splitter("web", &[(60, "a")]), "sum"),
        (splitter("web", &[(100, "Not/A/Name")]), "Not/A/Name"),
        (entry("service-splitter", &json!({ "Name": "web", "Splits": 7 })), "expected"),
        (
            entry("service-splitter", &json!({ "Name": "web", "Splits": [], "Spilts": [] })),
            "Spilts",
        ),
    ] {
        let settled = settle(&mut entries, vec![bad, other.clone()], "").expect("the rest fits");
        assert_eq!(shares(&settled), ["a"], "{why}");
        let [refused] = &settled.refused[..] else { panic!("{:?}", settled.refused) };
        assert_eq!(
            (refused.kind, &*refused.name, refused.is_replaced),
            ("service-splitter", "web", true)
        );
        assert!(
            refused.why.contains(why) && refused.why.contains("consul:service-splitter/web"),
            "{}",
            refused.why
        );
        assert!(
            settled.good.contains_key(&("service-splitter", "shop".to_owned())),
            "others go on"
        );
    }
    // What is taken away is gone, however good it was.
    let settled = settle(&mut entries, vec![other], "").expect("it fits");
    assert!(settled.snapshot.destinations().iter().all(|it| it.name.name() != "web"));
}

#[test]
fn a_bad_entry_without_a_good_form_is_left_out_with_what_needs_it() {
    // The splitter asks for a subset of a resolver that is refused.
    let split = json!({ "Name": "web", "Splits": [{ "Weight": 100, "ServiceSubset": "v1" }] });
    let resolver = |filter: &str| {
        let subsets = json!({ "v1": { "Filter": filter } });
        entry("service-resolver", &json!({ "Name": "web", "Subsets": subsets }))
    };
    let mut entries = Entries::default();
    let wanted = vec![resolver("Service.Tags contains x"), entry("service-splitter", &split)];
    let settled = settle(&mut entries, wanted, "").expect("the rest fits");
    assert_eq!(settled.refused.len(), 2, "{:?}", settled.refused);
    assert!(settled.refused.iter().all(|refused| !refused.is_replaced));
    assert!(settled.good.is_empty());
    // Both are in force as soon as the one at fault is mended.
    let wanted = vec![resolver("Service.Meta.version == 1"), entry("service-splitter", &split)];
    let settled = settle(&mut entries, wanted, "").expect("it fits");
    assert_eq!(settled.refused, []);
    assert_eq!(shares(&settled), ["web"]);
}

#[test]
fn an_entry_of_a_file_stands_while_consul_has_none_of_its_name_that_fits() {
    let own = "apiVersion: mesh/v1\nkind: Service\nmetadata: { name: web }\n\
               spec: { endpoints: { static: ['127.0.0.1:1'] } }\n---\n\
               Kind: service-splitter\nName: web\nSplits: [{ Weight: 100 }]\n";
    let mut entries = Entries::default();
    for (wanted, to, refused) in [
        (vec![], "web", 0),
        (vec![splitter("web", &[(60, "a")])], "web", 1),
        (vec![splitter("other", &[(100, "a")])], "web", 0),
        (vec![splitter("web", &[(100, "a")])], "a", 0),
        (vec![splitter("web", &[(60, "b")])], "a", 1),
        (vec![], "web", 0),
    ] {
        let settled = settle(&mut entries, wanted, own).expect("it fits");
        assert_eq!((shares(&settled), settled.refused.len()), (vec![to.to_owned()], refused));
    }
}

#[test]
fn errors_of_files_are_told_as_ever() {
    let wrong = "apiVersion: mesh/v1\nkind: Service\nmetadata: { name: web }\nspec: {}\n";
    let wanted = vec![splitter("web", &[(100, "a")])];
    let errors = settle(&mut Entries::default(), wanted, wrong);
    assert!(errors.map(|_| ()).expect_err("the file is wrong").to_string().contains("mesh.yaml"));
}

#[test]
fn many_bad_entries_are_refused_each_for_itself() {
    let bad = |name: usize| splitter(&format!("web-{name}"), &[(60, "a")]);
    let wanted: Vec<Entry> = (0..300).map(bad).collect();
    let settled = settle(&mut Entries::default(), wanted, "").expect("nothing is left");
    assert_eq!((settled.refused.len(), settled.good.len()), (300, 0));
}
