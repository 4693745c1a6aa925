//! What belongs to the server or to the database itself and not to a schema: roles and what they may, settings, grants.
//! No dump of a database carries it.

use super::{Look, OURS_NOT, commands, listed, texts};
use crate::error::fault;
use crate::ident::ident;
use bluegreen_core::{Color, Kind, Result};
use std::collections::{BTreeMap, BTreeSet};

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    let used: BTreeMap<String, Role> = Role::read(look, &used()).await?;
    let logins: BTreeMap<String, Role> = Role::read(look, &logins()).await?;
    let there: BTreeMap<String, Role> = Role::of(look, Color::Green, "SELECT oid FROM pg_roles").await?;
    let missing: Vec<&Role> = used.values().filter(|role| !there.contains_key(&role.name)).collect();
    if !missing.is_empty() {
        look.blocks(
            "missing-roles",
            format!("green does not know {}", listed("role", &missing)),
            "they own things in blue's database or were granted rights there: its schema cannot be made on green without them",
            create(&missing),
        );
    }
    let absent: Vec<&Role> = logins
        .values()
        .filter(|role| !there.contains_key(&role.name) && !used.contains_key(&role.name))
        .collect();
    if !absent.is_empty() {
        look.warns(
            "missing-logins",
            format!(
                "they may log in to blue, and green does not know {}",
                listed("role", &absent)
            ),
            "who logs in as one of them is turned away after the cut-over",
            create(&absent),
        );
    }
    let known = used
        .into_iter()
        .chain(logins)
        .filter(|(name, _)| there.contains_key(name))
        .collect();
    attributes(look, &known, &there);
    settings(look, &known).await?;
    grants(look).await
}

/// The roles that blue's database names: owners, and who was granted something.
fn used() -> String {
    format!(
        "SELECT refobjid FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass \
         AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         UNION SELECT c.relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {OURS_NOT}"
    )
}

/// Who may log in and is a member of a role that the database names.
fn logins() -> String {
    format!(
        "SELECT r.oid FROM pg_roles r WHERE r.rolcanlogin AND NOT r.rolsuper AND EXISTS (SELECT FROM ({}) AS used (oid) \
         JOIN pg_roles g ON g.oid = used.oid WHERE g.oid <> r.oid AND g.rolname !~ '^pg_' \
         AND pg_has_role(r.oid, g.oid, 'MEMBER'))",
        used()
    )
}

struct Role {
    name: String,
    /// As `CREATE ROLE` takes them.
    attributes: BTreeSet<String>,
    member_of: BTreeSet<String>,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&ident(&self.name))
    }
}

impl Role {
    async fn read(look: &Look<'_>, which: &str) -> Result<BTreeMap<String, Self>> {
        Self::of(look, Color::Blue, which).await
    }

    async fn of(look: &Look<'_>, color: Color, which: &str) -> Result<BTreeMap<String, Self>> {
        let sql = format!(
            "SELECT r.rolname::text, concat_ws(',', CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END, \
              CASE WHEN rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END, \
              CASE WHEN rolbypassrls OR rolsuper THEN 'BYPASSRLS' END), \
             (SELECT coalesce(json_agg(g.rolname), '[]')::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid) \
             FROM pg_roles r WHERE r.rolname !~ '^pg_' AND r.oid IN ({which}) ORDER BY 1"
        );
        let rows = texts::<3>(look.side(color), &sql).await?;
        rows.into_iter()
            .map(|[name, attributes, groups]| {
                let role = Self {
                    attributes: attributes.split(',').map(str::to_owned).collect(),
                    member_of: serde_json::from_str(&groups)
                        .map_err(|e| fault(Kind::Unexpected, "read the roles", e.to_string()))?,
                    name: name.clone(),
                };
                Ok((name, role))
            })
            .collect()
    }

    fn words(&self) -> String {
        self.attributes.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
    }
}

fn create(roles: &[&Role]) -> String {
    let made = roles.iter().map(|role| format!("CREATE ROLE {role} {};", role.words()));
    let joined = roles.iter().flat_map(|role| {
        role.member_of
            .iter()
            .map(move |group| format!("GRANT {} TO {role};", ident(group)))
    });
    let logs_in = roles.iter().any(|role| role.attributes.contains("LOGIN"));
    let passwords = if logs_in {
        "with their passwords: pg_dumpall --roles-only at blue, and of it what green lacks; without: "
    } else {
        ""
    };
    format!("{passwords}at green: {}", commands(made.chain(joined)))
}

/// Roles that are on both sides and may not the same.
fn attributes(look: &mut Look<'_>, known: &BTreeMap<String, Role>, there: &BTreeMap<String, Role>) {
    let (mut seen, mut mend) = (Vec::new(), Vec::new());
    for (name, role) in known {
        let Some(green) = there.get(name) else { continue };
        let differs: Vec<&str> = role
            .attributes
            .difference(&green.attributes)
            .map(String::as_str)
            .collect();
        if !differs.is_empty() {
            seen.push(format!("{role} ({} on blue only)", differs.join(" ")));
            mend.push(format!("ALTER ROLE {role} {};", differs.join(" ")));
        }
        let groups: Vec<String> = role
            .member_of
            .difference(&green.member_of)
            .map(|group| ident(group))
            .collect();
        if !groups.is_empty() {
            seen.push(format!("{role} (member of {} on blue only)", groups.join(", ")));
            mend.push(format!("GRANT {} TO {role};", groups.join(", ")));
        }
    }
    if !seen.is_empty() {
        look.warns(
            "role-attributes",
            format!("not the same on green: {}", listed("role", &seen)),
            "roles are the server's and not the database's: what the application may on blue it may not on green",
            format!("at green: {}", commands(mend)),
        );
    }
}

/// Settings whose value is a list as it was written, quotes included.
const LISTS: &str =
    "'search_path', 'session_preload_libraries', 'local_preload_libraries', 'temp_tablespaces', 'DateStyle'";

/// `ALTER DATABASE .. SET` and `ALTER ROLE .. SET`.
async fn settings(look: &mut Look<'_>, known: &BTreeMap<String, Role>) -> Result<()> {
    let sql = format!(
        "SELECT coalesce(r.rolname, '')::text, (s.setdatabase <> 0)::text, split_part(c.setting, '=', 1), \
         CASE WHEN split_part(c.setting, '=', 1) IN ({LISTS}) THEN substr(c.setting, strpos(c.setting, '=') + 1) \
          ELSE quote_literal(substr(c.setting, strpos(c.setting, '=') + 1)) END \
         FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS c (setting) LEFT JOIN pg_roles r ON r.oid = s.setrole \
         WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) \
         AND c.setting NOT LIKE 'default_transaction_read_only=%' ORDER BY 1, 2, 3"
    );
    let green: BTreeSet<[String; 4]> = texts::<4>(look.green, &sql).await?.into_iter().collect();
    let dbname = look.dbname(Color::Green);
    let lacking: Vec<[String; 4]> = texts::<4>(look.blue, &sql)
        .await?
        .into_iter()
        .filter(|set| !green.contains(set) && (set[0].is_empty() || known.contains_key(&set[0])))
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let whose = |[role, of_database, ..]: &[String; 4]| match (role.as_str(), of_database.as_str()) {
        ("", _) => format!("DATABASE {dbname}"),
        (role, "true") => format!("ROLE {} IN DATABASE {dbname}", ident(role)),
        (role, _) => format!("ROLE {}", ident(role)),
    };
    let seen: Vec<String> = lacking
        .iter()
        .map(|set| format!("{} = {} ({})", set[2], set[3], whose(set).to_lowercase()))
        .collect();
    let mend = lacking.iter().map(|set| match set[3].as_str() {
        "" => format!("ALTER {} SET {} = '';", whose(set), set[2]),
        value => format!("ALTER {} SET {} = {value};", whose(set), set[2]),
    });
    look.warns(
        "database-settings",
        format!("set on blue and not, or not so, on green: {}", listed("setting", &seen)),
        "they are the database's or a role's own and no dump of a schema has them: a search_path or a time zone that is missing \
         changes what the application's statements mean",
        format!("at green: {}", commands(mend)),
    );
    Ok(())
}

/// Who may connect to the database, make temporary tables or schemas in it.
async fn grants(look: &mut Look<'_>) -> Result<()> {
    let sql = "SELECT coalesce(r.rolname, '')::text, a.privilege_type, a.is_grantable::text \
               FROM pg_database d CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS a \
               LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE d.datname = current_database() AND a.grantee <> d.datdba \
               AND (a.grantee = 0 OR r.rolname IS NOT NULL) ORDER BY 1, 2";
    let blue: BTreeSet<[String; 3]> = texts::<3>(look.blue, sql).await?.into_iter().collect();
    let green: BTreeSet<[String; 3]> = texts::<3>(look.green, sql).await?.into_iter().collect();
    let dbname = look.dbname(Color::Green);
    let who = |role: &str| match role {
        "" => "PUBLIC".to_owned(),
        role => ident(role),
    };
    // The owner may everything, whoever it is on that side.
    let owner = look.context.settings.green.conninfo().user().to_owned();
    let given: Vec<&[String; 3]> = blue.difference(&green).filter(|grant| grant[0] != owner).collect();
    let taken: Vec<&[String; 3]> = green.difference(&blue).filter(|grant| grant[0].is_empty()).collect();
    if given.is_empty() && taken.is_empty() {
        return Ok(());
    }
    let said = |grants: &[&[String; 3]], where_: &str| -> Vec<String> {
        grants
            .iter()
            .map(|[role, right, _]| format!("{right} of {} {where_}", who(role)))
            .collect()
    };
    let seen = [said(&given, "on blue only"), said(&taken, "on green only")].concat();
    let mend = taken
        .iter()
        .map(|[role, right, _]| format!("REVOKE {right} ON DATABASE {dbname} FROM {};", who(role)))
        .chain(given.iter().map(|[role, right, on]| {
            let option = if on == "true" { " WITH GRANT OPTION" } else { "" };
            format!("GRANT {right} ON DATABASE {dbname} TO {}{option};", who(role))
        }));
    look.warns(
        "database-grants",
        listed("right", &seen),
        "rights on the database itself are not in its dump: who may connect to blue could be turned away by green, or the other way round",
        format!("at green: {}", commands(mend)),
    );
    Ok(())
}
