//! Owners: without superuser, what the copy makes at green it can give only to roles that we may become.

use super::{Look, OURS_NOT, commands, listed, names, texts};
use crate::catalog;
use crate::error::Doing;
use crate::ident::ident;
use bluegreen_core::{Color, Result};
use std::collections::BTreeSet;

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    // What our copy made there is there.
    if !look.ours && !catalog::is_superuser(&**look.green).await? {
        let owned = texts::<3>(look.blue, &owned()).await?;
        let owners = owned.iter().map(|[_, owner, _]| owner);
        let schemas = names(look.blue, SCHEMA_OWNERS, &[]).await?;
        let owners: BTreeSet<String> = owners.chain(&schemas).cloned().collect();
        become_owners(look, Color::Green, &owners, "things").await?;
        create_in_schema(look, &owned).await?;
    }
    if !catalog::is_superuser(&**look.blue).await? && catalog::version(look.blue).await? >= 160_000 {
        // Whose rights we do not have at all is `right-tables`.
        let owners = names(
            look.blue,
            &format!(
                "SELECT DISTINCT pg_get_userbyid(c.relowner)::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE {OURS_NOT} AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND pg_has_role(c.relowner, 'USAGE')"
            ),
            &[],
        )
        .await?;
        become_owners(look, Color::Blue, &owners.into_iter().collect(), "tables").await?;
    }
    Ok(())
}

/// Who owns schemas and foreign servers, and whose default privileges were set. The owner of green's database owns its schema `public` without a name of its own.
const SCHEMA_OWNERS: &str = "SELECT DISTINCT pg_get_userbyid(nspowner)::text FROM pg_namespace n WHERE nspname !~ '^pg_' \
     AND nspname NOT IN ('information_schema', 'bluegreen') AND pg_get_userbyid(nspowner) <> 'pg_database_owner' \
     AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e') \
     UNION SELECT pg_get_userbyid(defaclrole)::text FROM pg_default_acl UNION SELECT pg_get_userbyid(srvowner)::text FROM pg_foreign_server s \
     WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_foreign_server'::regclass AND d.objid = s.oid AND d.deptype = 'e')";

/// The schema, the owner and the schema's owner of whatever a dump gives to its owner: not what is an extension's, or part of another
/// thing (a range's constructors, an identity's sequence).
fn owned() -> String {
    let not_of_extension = |class: &str, alias: &str| {
        format!(
            "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'bluegreen') AND NOT EXISTS (SELECT FROM pg_depend d \
             WHERE d.classid = '{class}'::regclass AND d.objid = {alias}.oid AND d.objsubid = 0 AND d.deptype IN ('e', 'i'))"
        )
    };
    let of = |class: &str, alias: &str, prefix: &str, and: &str| {
        format!(
            "SELECT n.nspname, {alias}.{prefix}owner, n.nspowner FROM {class} {alias} JOIN pg_namespace n \
             ON n.oid = {alias}.{prefix}namespace WHERE {}{and}",
            not_of_extension(class, alias)
        )
    };
    format!(
        "SELECT DISTINCT nspname::text, pg_get_userbyid(owner)::text, pg_get_userbyid(nspowner)::text FROM ({} UNION {} UNION {} \
         UNION {} UNION {} UNION {} UNION {} UNION {} UNION {} UNION {} UNION {}) AS things (nspname, owner, nspowner) ORDER BY 1, 2",
        of(
            "pg_class",
            "c",
            "rel",
            " AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't'"
        ),
        of("pg_proc", "p", "pro", ""),
        of("pg_type", "t", "typ", " AND t.typrelid = 0"),
        of("pg_operator", "o", "opr", ""),
        of("pg_collation", "l", "coll", ""),
        of("pg_statistic_ext", "s", "stx", ""),
        of("pg_ts_dict", "k", "dict", ""),
        of("pg_ts_config", "g", "cfg", ""),
        of("pg_conversion", "v", "con", ""),
        of("pg_opfamily", "f", "opf", ""),
        of("pg_opclass", "a", "opc", ""),
    )
}

async fn become_owners(look: &mut Look<'_>, color: Color, owners: &BTreeSet<String>, what: &str) -> Result<()> {
    let owners: Vec<&String> = owners.iter().collect();
    // From 16 on to inherit a role's rights and to become it are two things.
    let new = catalog::version(look.side(color)).await? >= 160_000;
    let right = if new { "SET" } else { "MEMBER" };
    let beyond = names(
        look.side(color),
        &format!(
            "SELECT quote_ident(rolname) FROM pg_roles r WHERE rolname = ANY ($1) AND rolname !~ '^pg_' \
             AND NOT (pg_has_role(r.oid, 'USAGE') AND pg_has_role(r.oid, '{right}')) ORDER BY 1"
        ),
        &[&owners],
    )
    .await?;
    if beyond.is_empty() {
        return Ok(());
    }
    let user = ident(look.context.settings.server(color).conninfo().user());
    let mend = join(look, color, &beyond).await?;
    let why = match color {
        Color::Green => {
            "without superuser the copy can give what it makes only to a role that we may become and whose rights we have"
        }
        Color::Blue => {
            "on the way back changes are applied as the owner of their table, whom we must be able to become"
        }
    };
    look.blocks(
        "right-become-owner",
        format!(
            "the user {user} may not become {} at {color}, who own {what} at blue",
            listed("role", &beyond)
        ),
        why,
        format!("at {color}: {mend}"),
    );
    Ok(())
}

/// The commands that give us the rights of these roles, whose names are quoted. They take nothing from anybody, as another owner
/// would: an owner that was granted nothing else would lose what is its own.
pub(super) async fn join(look: &Look<'_>, color: Color, roles: &[String]) -> Result<String> {
    let options = if catalog::version(look.side(color)).await? >= 160_000 {
        " WITH INHERIT TRUE, SET TRUE"
    } else {
        ""
    };
    let mighty = "SELECT quote_ident(rolname) FROM pg_roles WHERE rolsuper AND quote_ident(rolname) = ANY ($1)";
    let mighty = match names(look.side(color), mighty, &[&roles]).await?.first() {
        Some(owner) => format!(
            " -- a member of the superuser {owner} may all that it may, so better give what it owns to another role"
        ),
        None => String::new(),
    };
    let user = ident(look.context.settings.server(color).conninfo().user());
    let grants = roles.iter().map(|role| format!("GRANT {role} TO {user}{options};"));
    Ok(format!("{}{mighty}", commands(grants)))
}

/// A dump makes a thing, gives it to its owner, and only at its end gives that owner the right to create in the schema. Superusers are
/// not asked.
async fn create_in_schema(look: &mut Look<'_>, owned: &[[String; 3]]) -> Result<()> {
    let column = |i: usize| owned.iter().map(|row| row[i].clone()).collect::<Vec<_>>();
    let (schemas, owners, theirs) = (column(0), column(1), column(2));
    let rows = look
        .green
        .query(
            "SELECT format('%I in %I', r.rolname, nspname), CASE nspname WHEN 'public' \
              THEN format('GRANT CREATE ON SCHEMA public TO %I;', r.rolname) ELSE format('GRANT %I TO %I;', s.rolname, r.rolname) END, \
             CASE nspname WHEN 'public' THEN '' ELSE format('REVOKE %I FROM %I;', s.rolname, r.rolname) END \
             FROM unnest($1::text[], $2::text[], $3::text[]) AS t (nspname, owner, nspowner) \
             JOIN pg_roles r ON r.rolname = t.owner JOIN pg_roles s ON s.rolname = t.nspowner \
             WHERE r.rolname <> current_user AND r.oid <> s.oid AND CASE nspname WHEN 'public' \
              THEN NOT has_schema_privilege(r.oid, to_regnamespace('public')::oid, 'CREATE') \
              ELSE NOT pg_has_role(r.oid, s.oid, 'USAGE') END ORDER BY 1",
            &[&schemas, &owners, &theirs],
        )
        .await
        .doing("read the catalogue")?;
    let column = |i: usize| -> Vec<String> { rows.iter().map(|row| row.get(i)).collect() };
    let (seen, grants, mut back) = (column(0), column(1), column(2));
    if seen.is_empty() {
        return Ok(());
    }
    back.retain(|revoke| !revoke.is_empty());
    let back = if back.is_empty() {
        String::new()
    } else {
        format!(
            " and, when the copy is made, to take it back, in another database of green's, for this one is read-only then: {}",
            commands(back)
        )
    };
    look.blocks(
        "right-create-in-schema",
        format!("at green roles may not create in a schema where they own things at blue: {}", listed("role", &seen)),
        "without superuser the copy can give a thing only to an owner who may create in its schema, and what blue granted them there is \
         granted after all things are made",
        format!("at green: {}{back}", commands(grants)),
    );
    Ok(())
}
