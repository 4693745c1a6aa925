//! Who may log in to blue and could not at green: roles that are not there, may not log in there, or have no password there.

use super::roles::{Role, Roles, create, used};
use super::{Look, commands, listed, texts};
use crate::ident::{ident, literal};
use crate::writers;
use bluegreen_core::{Color, Result, Severity};
use std::collections::BTreeMap;

/// What managed services keep for themselves.
const THEIRS: &str = writers::services_own!();

/// Says who could not log in; gives those of blue's logins that matter to this database.
pub(super) async fn check(look: &mut Look<'_>, used: &Roles, there: &mut Roles) -> Result<Roles> {
    let connected = Role::of(look, Color::Blue, &connected(&look.context.settings.name)).await?;
    let mut named = Role::of(look, Color::Blue, &named()).await?;
    named.retain(|name, _| !connected.contains_key(name));
    let mut others = Role::of(look, Color::Blue, &others()).await?;
    others.retain(|name, _| !connected.contains_key(name) && !named.contains_key(name));
    for (roles, severity, seen) in [
        (
            &connected,
            Severity::Blocking,
            "they are connected to blue's database now",
        ),
        (&named, Severity::Warning, "they may connect to blue's database"),
        (
            &others,
            Severity::Note,
            "they may log in to blue as everybody may, or as superusers",
        ),
    ] {
        missing(look, roles, used, there, severity, seen);
    }
    // Said already.
    for name in connected.keys() {
        if let Some(role) = there.get_mut(name) {
            role.attributes.remove("NOLOGIN");
            role.attributes.insert("LOGIN".to_owned());
        }
    }
    let mut logins: BTreeMap<&str, bool> = used.keys().map(|name| (name.as_str(), false)).collect();
    logins.extend(named.keys().map(|name| (name.as_str(), false)));
    logins.extend(connected.keys().map(|name| (name.as_str(), true)));
    logins.retain(|name, _| there.contains_key(*name));
    passwords(look, &logins).await?;
    named.extend(connected);
    Ok(named)
}

/// Whose sessions are in this database.
fn connected(migration: &str) -> String {
    let ours = writers::ours(migration).map(|name| literal(&name)).join(", ");
    format!(
        "SELECT usesysid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' \
         AND application_name NOT IN ({ours}) AND usename NOT IN {THEIRS}"
    )
}

/// Who may log in and is a member of a role that the database names; and whom it names by its own rights or settings.
fn named() -> String {
    let of_database = "SELECT a.grantee FROM pg_database d CROSS JOIN LATERAL aclexplode(d.datacl) AS a \
         WHERE d.datname = current_database() AND a.grantee NOT IN (0, d.datdba) \
         UNION SELECT s.setrole FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase \
         WHERE d.datname = current_database() AND s.setrole <> 0";
    format!(
        "SELECT r.oid FROM pg_roles r WHERE r.rolcanlogin AND NOT r.rolsuper AND EXISTS (SELECT FROM ({} UNION {of_database}) \
         AS used (oid) JOIN pg_roles g ON g.oid = used.oid WHERE g.oid <> r.oid AND g.rolname !~ '^pg_' \
         AND pg_has_role(r.oid, g.oid, 'MEMBER')) UNION {of_database}",
        used()
    )
}

/// Who else would be let in.
fn others() -> String {
    format!(
        "SELECT oid FROM pg_roles WHERE rolcanlogin AND rolname <> current_user AND rolname NOT IN {THEIRS} \
         AND has_database_privilege(oid, current_database(), 'CONNECT')"
    )
}

fn missing(look: &mut Look<'_>, roles: &Roles, used: &Roles, there: &Roles, severity: Severity, seen: &str) {
    let absent: Vec<&Role> = roles
        .values()
        .filter(|role| !there.contains_key(&role.name) && !used.contains_key(&role.name))
        .collect();
    // What else differs is `role-attributes`.
    let shut: Vec<&Role> = roles
        .values()
        .filter(|role| severity == Severity::Blocking && role.attributes.contains("LOGIN"))
        .filter(|role| there.get(&role.name).is_some_and(|r| r.attributes.contains("NOLOGIN")))
        .collect();
    if absent.is_empty() && shut.is_empty() {
        return;
    }
    let mut said = Vec::new();
    let mut mends = Vec::new();
    if !absent.is_empty() {
        said.push(format!("green does not know {}", listed("role", &absent)));
        mends.push(create(&absent, |group| {
            used.contains_key(group) || there.contains_key(group) || roles.contains_key(group)
        }));
    }
    if !shut.is_empty() {
        said.push(format!("at green NOLOGIN is {}", listed("role", &shut)));
        let mend = commands(shut.iter().map(|role| format!("ALTER ROLE {role} LOGIN;")));
        mends.push(if absent.is_empty() {
            format!("at green: {mend}")
        } else {
            mend
        });
    }
    look.found(
        severity,
        "missing-logins",
        format!("{seen}: {}", said.join("; ")),
        "who logs in as one of them is turned away after the cut-over",
        mends.join(" "),
    );
}

/// Passwords, of those who may log in at blue; `true` is for who is connected. No password and no hash of one is ever said.
async fn passwords(look: &mut Look<'_>, logins: &BTreeMap<&str, bool>) -> Result<()> {
    let list: Vec<String> = logins.keys().map(|name| literal(name)).collect();
    if list.is_empty() {
        return Ok(());
    }
    let list = list.join(", ");
    let may_read = "SELECT has_column_privilege('pg_catalog.pg_authid', 'rolpassword', 'SELECT')::text";
    let may_read = [look.blue, look.green].map(|session| texts::<1>(session, may_read));
    let mut secret = false;
    for may in may_read {
        secret |= may.await?.iter().any(|[may]| may == "false");
    }
    // A digest is enough to compare by, and opens no door.
    let password = if secret {
        "NULL"
    } else {
        "(SELECT encode(sha256(convert_to(a.rolpassword, 'UTF8')), 'hex') FROM pg_authid a WHERE a.oid = r.oid)"
    };
    let sql = format!(
        "SELECT rolname::text, coalesce(rolvaliduntil <= clock_timestamp(), false)::text, {password} FROM pg_roles r \
         WHERE rolcanlogin AND rolname IN ({list}) ORDER BY 1"
    );
    let green: BTreeMap<String, [String; 3]> = texts::<3>(look.green, &sql)
        .await?
        .into_iter()
        .map(|row| (row[0].clone(), row))
        .collect();
    let (mut without, mut expired, mut other, mut all) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for [name, over, password] in texts::<3>(look.blue, &sql).await? {
        let Some([_, over_there, password_there]) = green.get(&name) else {
            continue;
        };
        if over == "false" && over_there == "true" {
            expired.push(name.clone());
        }
        if !password.is_empty() && password_there.is_empty() {
            without.push(name.clone());
        } else if password != *password_there && !password.is_empty() {
            other.push(name.clone());
        }
        all.push(name);
    }
    let is_connected = |names: &[String]| names.iter().any(|name| logins[name.as_str()]);
    lacking(
        look,
        &without,
        &expired,
        is_connected(&without) || is_connected(&expired),
    );
    let (seen, names) = if secret {
        ("not looked at, for we may not read them:", &all)
    } else {
        ("not written alike:", &other)
    };
    if !names.is_empty() {
        let quoted: Vec<String> = names.iter().map(|name| ident(name)).collect();
        look.notes(
            "login-passwords",
            format!("the passwords on blue and on green are {seen} {}", listed("role", &quoted)),
            "one that was set on each side by itself is written otherwise and may be the same, and may be another: who has another is \
             turned away after the cut-over",
            format!("log in to green as each of them; or {}", carry(names)),
        );
    }
    Ok(())
}

/// The command that carries passwords over as they are kept.
fn carry(names: &[String]) -> String {
    let list: Vec<String> = names.iter().map(|name| literal(name)).collect();
    format!(
        "run at green what this prints at blue to a superuser: SELECT format('ALTER ROLE %I PASSWORD %L;', rolname, rolpassword) \
         FROM pg_authid WHERE rolpassword IS NOT NULL AND rolname IN ({});",
        list.join(", ")
    )
}

fn lacking(look: &mut Look<'_>, without: &[String], expired: &[String], connected: bool) {
    if without.is_empty() && expired.is_empty() {
        return;
    }
    let quoted = |names: &[String]| names.iter().map(|name| ident(name)).collect::<Vec<_>>();
    let (mut seen, mut mend) = (Vec::new(), Vec::new());
    if !expired.is_empty() {
        seen.push(format!(
            "whose passwords are over at green only, {}",
            listed("role", &quoted(expired))
        ));
        let each = quoted(expired)
            .into_iter()
            .map(|role| format!("ALTER ROLE {role} VALID UNTIL 'infinity';"));
        mend.push(format!("at green: {}", commands(each)));
    }
    if !without.is_empty() {
        seen.push(format!(
            "that have a password on blue and none on green, {}",
            listed("role", &quoted(without))
        ));
        mend.push(carry(without));
    }
    let (severity, who) = match connected {
        true => (Severity::Blocking, " (somebody is connected to blue as one of them)"),
        false => (Severity::Warning, ""),
    };
    look.found(
        severity,
        "logins-without-password",
        format!("{}{who}", seen.join("; ")),
        "who logs in with a password is turned away by green after the cut-over",
        mend.join(" And "),
    );
}
