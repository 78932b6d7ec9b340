use super::*;
use crate::actors::runtime::testing::Given;
use crate::kernel::ErrorCode;

fn spec(name: &str, port: u16) -> Spec {
    Spec {
        name: name.to_owned(),
        prefix: format!("/{name}/"),
        host: String::new(),
        upstreams: vec![format!("http://127.0.0.1:{port}")],
        access: "user".to_owned(),
        strip_prefix: true,
        timeout_ms: 1000,
        retries: 1,
        health_path: String::new(),
        websocket: false,
    }
}

fn put(route: Spec, version: Option<u64>) -> Command {
    Command::PutRoute { route, version }
}

fn seed(given: &mut Given<Routes>, ports: &[(&str, u16)]) -> usize {
    let routes = ports.iter().map(|(name, port)| spec(name, *port)).collect();
    given.when(Command::Seed { routes }).expect("seeded").events.len()
}

fn ports(given: &mut Given<Routes>) -> Vec<(String, String, u64)> {
    match given.when(Command::ListRoutes).expect("listed").reply {
        Reply::Routes(routes) => {
            routes.into_iter().map(|view| (view.route.name, view.route.upstreams[0].clone(), view.version)).collect()
        }
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn a_seed_follows_its_configuration_until_an_operator_takes_over() {
    let mut given = Given::<Routes>::new("routes");
    assert_eq!(seed(&mut given, &[("a", 1), ("b", 1)]), 2);
    assert_eq!(seed(&mut given, &[("a", 2), ("b", 1)]), 1, "the configuration changed");
    given.when(put(spec("a", 3), Some(2))).expect("put");
    given.when(Command::DeleteRoute { name: "b".into(), version: Some(1) }).expect("deleted");
    assert_eq!(seed(&mut given, &[("a", 4), ("b", 1), ("c", 1)]), 1, "what an operator changed or deleted stays so");
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    assert_eq!(ports(&mut given), [("a".to_owned(), url(3), 3), ("c".to_owned(), url(1), 1)]);
    given.when(put(spec("b", 5), None)).expect("put again");
    assert_eq!(ports(&mut given).len(), 3);
}

#[test]
fn what_was_not_read_or_is_taken_is_refused() {
    let mut given = Given::<Routes>::new("routes");
    given.when(put(spec("a", 1), Some(0))).expect("put");
    assert!(given.when(put(spec("a", 1), None)).expect("the same").is_query());
    let shadow = Spec { name: "b".into(), prefix: "/a".into(), ..spec("a", 2) };
    let elsewhere = Spec { host: "shop.example".into(), ..shadow.clone() };
    given.when(put(elsewhere, None)).expect("another host");
    for (command, code) in [
        (put(spec("a", 2), Some(0)), ErrorCode::PreconditionFailed),
        (put(spec("a", 2), Some(7)), ErrorCode::PreconditionFailed),
        (put(Spec { name: "c".into(), ..shadow }, None), ErrorCode::Conflict),
        (Command::DeleteRoute { name: "a".into(), version: Some(2) }, ErrorCode::PreconditionFailed),
        (Command::DeleteRoute { name: "none".into(), version: None }, ErrorCode::NotFound),
        (Command::GetRoute { name: "none".into() }, ErrorCode::NotFound),
    ] {
        assert_eq!(given.when(command.clone()).expect_err("refused").code, code, "{command:?}");
    }
}
