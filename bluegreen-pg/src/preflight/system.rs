//! Rights on the server's own objects. A dump has those that were changed, and nobody but a superuser may set them.

use super::{Look, listed, names};
use crate::catalog;
use bluegreen_core::{Color, Result};

/// Functions and relations whose rights are others than the server was made with.
const CHANGED: &str = "
    SELECT 'function ' || p.oid::regprocedure FROM pg_proc p
        LEFT JOIN pg_init_privs i ON i.objoid = p.oid AND i.classoid = 'pg_proc'::regclass AND i.objsubid = 0,
        LATERAL (SELECT acldefault('f', p.proowner)) AS d (acl),
        LATERAL (SELECT coalesce(p.proacl, d.acl), coalesce(i.initprivs, d.acl)) AS a (now_, was)
    WHERE p.pronamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) AND NOT (now_ @> was AND now_ <@ was)
    UNION ALL SELECT 'table ' || c.oid::regclass FROM pg_class c
        LEFT JOIN pg_init_privs i ON i.objoid = c.oid AND i.classoid = 'pg_class'::regclass AND i.objsubid = 0,
        LATERAL (SELECT acldefault('r', c.relowner)) AS d (acl),
        LATERAL (SELECT coalesce(c.relacl, d.acl), coalesce(i.initprivs, d.acl)) AS a (now_, was)
    WHERE c.relnamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) AND c.relkind IN ('r', 'v')
        AND NOT (now_ @> was AND now_ <@ was)
    ORDER BY 1";

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    let mut changed = names(look.blue, CHANGED, &[]).await?;
    if changed.is_empty() {
        return Ok(());
    }
    if catalog::is_superuser(&**look.green).await? {
        let lacking = "SELECT what FROM unnest($1::text[]) AS what WHERE CASE WHEN what LIKE 'function %' \
             THEN to_regprocedure(substr(what, 10)) IS NULL ELSE to_regclass(substr(what, 7)) IS NULL END";
        changed = names(look.green, lacking, &[&changed]).await?;
    }
    if changed.is_empty() {
        return Ok(());
    }
    let blue = look.context.settings.server(Color::Blue).conninfo().without_password();
    look.warns(
        "system-rights",
        format!("rights that were changed at blue and cannot be at green, on {}", listed("thing", &changed)),
        "they are the server's own, for a superuser to change, and not every version has the same ones: they are left out of the copy, and \
         who watches or backs up the database could be turned away at green",
        format!("where green needs them too, at green as a superuser, what this prints: pg_dump --schema-only --dbname=\"{blue}\" | \
                 grep -E '^(GRANT|REVOKE) .* ON (FUNCTION|TABLE) (pg_catalog|information_schema)\\.'"),
    );
    Ok(())
}
