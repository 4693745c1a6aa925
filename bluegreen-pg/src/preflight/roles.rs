//! Roles: that green knows those of blue's database, with the same attributes, and what they may on the database itself.
//! No dump of a database carries it.

use super::{Look, OURS_NOT, commands, listed, logins, settings, texts};
use crate::error::fault;
use crate::ident::ident;
use bluegreen_core::{Color, Kind, Result};
use std::collections::{BTreeMap, BTreeSet};

pub(super) type Roles = BTreeMap<String, Role>;

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    let used = Role::of(look, Color::Blue, &used()).await?;
    let mut there = Role::of(look, Color::Green, "SELECT oid FROM pg_roles").await?;
    let missing: Vec<&Role> = used.values().filter(|role| !there.contains_key(&role.name)).collect();
    if !missing.is_empty() {
        look.blocks(
            "missing-roles",
            format!("green does not know {}", listed("role", &missing)),
            "they own things in blue's database or were granted rights there: its schema cannot be made on green without them",
            create(&missing, |group| used.contains_key(group) || there.contains_key(group)),
        );
    }
    let logins = logins::check(look, &used, &mut there).await?;
    let known: Roles = used
        .into_iter()
        .chain(logins)
        .filter(|(name, _)| there.contains_key(name))
        .collect();
    attributes(look, &known, &there);
    settings::check(look, &known.keys().map(String::as_str).collect()).await?;
    grants(look, &there).await
}

/// The roles that blue's database names: owners, and who was granted something. Who owns an extension, what is an extension's, or what
/// is ours is named by no dump.
pub(super) fn used() -> String {
    format!(
        "SELECT refobjid FROM pg_shdepend s WHERE refclassid = 'pg_authid'::regclass \
         AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND NOT (deptype = 'o' AND (classid = 'pg_extension'::regclass OR EXISTS (SELECT FROM pg_depend d \
           WHERE d.classid = s.classid AND d.objid = s.objid AND (d.deptype = 'e' OR d.refclassid = 'pg_namespace'::regclass \
            AND d.refobjid = to_regnamespace('bluegreen'))) \
          OR classid = 'pg_namespace'::regclass AND objid = to_regnamespace('bluegreen'))) \
         UNION SELECT c.relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {OURS_NOT}"
    )
}

/// What a role has that nothing is said of.
const UNLIMITED: &str = "CONNECTION LIMIT -1";

pub(super) struct Role {
    pub(super) name: String,
    /// As `CREATE ROLE` takes them.
    pub(super) attributes: BTreeSet<String>,
    member_of: BTreeSet<String>,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&ident(&self.name))
    }
}

impl Role {
    /// Those whose oids the query gives, by name; not the server's own.
    pub(super) async fn of(look: &Look<'_>, color: Color, which: &str) -> Result<Roles> {
        let sql = format!(
            "SELECT r.rolname::text, concat_ws(',', CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END, \
              CASE WHEN rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END, \
              CASE WHEN rolbypassrls OR rolsuper THEN 'BYPASSRLS' END, CASE WHEN rolcreatedb OR rolsuper THEN 'CREATEDB' END, \
              CASE WHEN rolcreaterole OR rolsuper THEN 'CREATEROLE' END, 'CONNECTION LIMIT ' || rolconnlimit), \
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
        let said = self
            .attributes
            .iter()
            .map(String::as_str)
            .filter(|one| *one != UNLIMITED);
        said.collect::<Vec<_>>().join(" ")
    }
}

/// The commands that make these roles, members of those groups that are there by then.
pub(super) fn create(roles: &[&Role], is_there: impl Fn(&str) -> bool) -> String {
    let made = roles.iter().map(|role| format!("CREATE ROLE {role} {};", role.words()));
    let joined = roles.iter().flat_map(|role| {
        role.member_of
            .iter()
            .filter(|group| group.starts_with("pg_") || is_there(group))
            .map(move |group| format!("GRANT {} TO {role};", ident(group)))
    });
    let logs_in = roles.iter().any(|role| role.attributes.contains("LOGIN"));
    let passwords = if logs_in {
        "with their passwords: pg_dumpall --roles-only at blue, and of it what green lacks; without, and then nobody can log in with \
         one: "
    } else {
        ""
    };
    format!("{passwords}at green: {}", commands(made.chain(joined)))
}

/// Roles that are on both sides and may not the same.
fn attributes(look: &mut Look<'_>, known: &Roles, there: &Roles) {
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

/// Who may connect to the database, make temporary tables or schemas in it.
async fn grants(look: &mut Look<'_>, there: &Roles) -> Result<()> {
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
    // A grant to nobody fails.
    let later = if given
        .iter()
        .any(|[role, ..]| !role.is_empty() && !there.contains_key(role))
    {
        "when the missing roles are made, "
    } else {
        ""
    };
    look.warns(
        "database-grants",
        listed("right", &seen),
        "rights on the database itself are not in its dump: who may connect to blue could be turned away by green, or the other way round",
        format!("{later}at green: {}", commands(mend)),
    );
    Ok(())
}
