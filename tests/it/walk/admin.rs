//! The admin listener, every endpoint of it, with every role, with nobody and with its operator.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_is_for_administrators() {
    let node = Plan::sandbox().start().await;
    let listener = Client::new(format!("http://{}", node.admin));
    let description = listener.get("/openapi.json").await.expect(200).clone();
    let operations = operations(&description);
    assert!(operations.iter().filter(|operation| operation.path.starts_with("/admin/")).count() >= 9);
    let sign_up = async |role: &str| {
        let email = format!("{role}@example.com");
        let person = Person::sign_up(&node, &Maildir::of(&node.data()), &email, role).await;
        listener.with_token(person.api.token())
    };
    let strangers = [
        ("nobody", listener.clone(), 401),
        ("a forger", listener.with_token("eyJhbGciOiJFZERTQSJ9.e30.AAAA"), 401),
        ("consumer", sign_up("consumer").await, 403),
        ("robot_builder", sign_up("robot_builder").await, 403),
        ("developer", sign_up("developer").await, 403),
    ];
    let mut faults = Vec::new();
    for operation in &operations {
        let path = fill(&operation.path, &BTreeMap::new());
        if operation.path.starts_with("/admin/") && !operation.secured {
            faults.push(format!("{} {path} is open to everyone", operation.method));
        }
        for (who, client, refused) in &strangers {
            let answer = call(client, operation, &path, &fresh_key()).await;
            check(&answer, operation, who, &mut faults);
            if operation.secured && answer.status != *refused {
                faults.push(format!("{} {path} as {who}: {} (expected {refused})", operation.method, answer.status));
            }
        }
    }
    let administrator = administrator(&node).await;
    for (who, client) in
        [("administrator", listener.with_token(administrator.api.token())), ("operator", node.operator())]
    {
        // Time goes last: it ends the administrator's session.
        let (last, first): (Vec<_>, Vec<_>) = operations.iter().partition(|operation| operation.id == "advanceClock");
        for operation in first.into_iter().chain(last) {
            let answer = call(&client, operation, &fill(&operation.path, &BTreeMap::new()), &fresh_key()).await;
            check(&answer, operation, who, &mut faults);
            if matches!(answer.status, 401 | 403) {
                faults.push(format!("{} {} as {who}: {}", operation.method, operation.path, answer.status));
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
