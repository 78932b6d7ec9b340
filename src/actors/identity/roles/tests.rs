use super::permission::PERMISSIONS;
use super::*;
use crate::actors::runtime::testing::Given;
use crate::kernel::ErrorCode;

fn put(name: &str, permissions: &[&str], version: Option<u64>) -> Command {
    let permissions = permissions.iter().map(|permission| (*permission).to_owned()).collect();
    Command::PutRole { name: name.to_owned(), permissions, version }
}

fn roles(given: &mut Given<Roles>) -> Vec<RoleView> {
    match given.when(Command::GetRoles).expect("a query").reply {
        Reply::Roles(roles) => roles,
        Reply::Role(role) => panic!("unexpected {role:?}"),
    }
}

#[test]
fn the_four_roles_exist_with_declared_permissions() {
    let mut given = Given::<Roles>::new("roles");
    let roles = roles(&mut given);
    let names: Vec<_> = roles.iter().map(|role| role.name.as_str()).collect();
    assert_eq!(names, ["consumer", "robot_builder", "developer", "administrator"]);
    assert_eq!(roles[3].permissions, PERMISSIONS);
    assert!(PERMISSIONS.is_sorted(), "the list is kept sorted");
    assert!(!permission::may_sign_up_as("administrator") && permission::may_sign_up_as("developer"));
}

#[test]
fn a_role_is_replaced_added_and_left_alone_by_a_repeat() {
    let mut given = Given::<Roles>::new("roles");
    let done = given.when(put("consumer", &["usage:write", "audit:read", "audit:read"], Some(0))).expect("changed");
    assert_eq!(done.audit[0].target, "role:consumer");
    assert!(given.when(put("consumer", &["audit:read", "usage:write"], None)).expect("same").is_query());
    given.when(put("support", &["users:read"], None)).expect("added");
    let roles = roles(&mut given);
    assert_eq!((roles[0].permissions.len(), roles[0].version, roles[0].declared), (2, 1, true));
    assert_eq!((roles[4].name.as_str(), roles[4].declared), ("support", false));
}

#[test]
fn what_a_role_cannot_be_is_refused() {
    let mut given = Given::<Roles>::new("roles");
    let table = [
        (put("administrator", &[], None), ErrorCode::Conflict),
        (put("consumer", &["users:fly"], None), ErrorCode::Invalid),
        (put("X", &[], None), ErrorCode::Invalid),
        (put("1st", &[], None), ErrorCode::Invalid),
        (put("consumer", &[], Some(3)), ErrorCode::PreconditionFailed),
    ];
    for (command, code) in table {
        assert_eq!(given.when(command.clone()).expect_err("refused").code, code, "{command:?}");
    }
}
