//! What only a superuser of green could make: looked at where we are none.

use super::{Look, commands, listed, names, texts};
use crate::catalog;
use crate::error::{Doing, describe};
use crate::ident::ident;
use bluegreen_core::Result;
use tokio_postgres::error::SqlState;

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    // What our copy made there is there.
    if look.ours || catalog::is_superuser(&**look.green).await? {
        return Ok(());
    }
    extensions(look).await?;
    objects(look).await?;
    grantors(look).await
}

/// It is tried, and rolled back: managed services let some through that the catalogue says only superusers may have.
async fn extensions(look: &mut Look<'_>) -> Result<()> {
    let installed = names(look.blue, "SELECT extname::text FROM pg_extension ORDER BY 1", &[]).await?;
    let doubtful = names(
        look.green,
        "SELECT name::text FROM pg_available_extensions a JOIN pg_available_extension_versions v USING (name) \
         WHERE name = ANY ($1) AND v.version = a.default_version AND v.superuser AND NOT v.trusted \
         AND name NOT IN (SELECT extname FROM pg_extension) ORDER BY 1",
        &[&installed],
    )
    .await?;
    let mut refused = Vec::new();
    for name in doubtful {
        if !may(look, &format!("CREATE EXTENSION {} CASCADE", ident(&name))).await? {
            refused.push(ident(&name));
        }
    }
    if !refused.is_empty() {
        look.blocks(
            "right-extension",
            format!(
                "only a superuser may make {} at green, and we are none",
                listed("extension", &refused)
            ),
            "blue's schema uses them: without them it cannot be made on green",
            format!(
                "at green's database, as a superuser: {}",
                commands(refused.iter().map(|name| format!("CREATE EXTENSION {name} CASCADE;")))
            ),
        );
    }
    Ok(())
}

/// Whether green's server lets us; whatever else is wrong is others' to say.
async fn may(look: &Look<'_>, command: &str) -> Result<bool> {
    // An extension wants a schema to be made in, and would be told that before it is refused.
    let tried = format!("BEGIN; CREATE SCHEMA bluegreen_try; SET LOCAL search_path = bluegreen_try; {command}");
    let done = look.green.batch_execute(&tried).await;
    look.green
        .batch_execute("ROLLBACK")
        .await
        .doing("roll back what was tried")?;
    match done {
        Err(e) if e.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(false),
        Err(e) => {
            tracing::debug!(error = %describe(&e), command, "what was tried failed otherwise");
            Ok(true)
        }
        Ok(()) => Ok(true),
    }
}

/// What the server lets only superusers make, each with what is done about it at blue. `{e}` stands for not being an extension's.
const OBJECTS: &str = "
    SELECT 'event trigger ' || quote_ident(evtname), format('DROP EVENT TRIGGER %I;', evtname) FROM pg_event_trigger o WHERE {e}
    UNION ALL SELECT format('function %s in %I', o.oid::regprocedure, lanname), format('DROP ROUTINE %s;', o.oid::regprocedure)
        FROM pg_proc o JOIN pg_language l ON l.oid = o.prolang WHERE NOT lanpltrusted AND o.oid >= 16384 AND {e} AND o.prokind <> 'a'
        AND NOT EXISTS (SELECT FROM pg_depend i WHERE i.classid = 'pg_proc'::regclass AND i.objid = o.oid AND i.deptype = 'i')
    UNION ALL SELECT format('leakproof function %s', o.oid::regprocedure), format('ALTER FUNCTION %s NOT LEAKPROOF;', o.oid::regprocedure)
        FROM pg_proc o JOIN pg_language l ON l.oid = o.prolang WHERE lanpltrusted AND proleakproof AND o.oid >= 16384 AND {e}
    UNION ALL SELECT format('base type %s', o.oid::regtype), format('DROP TYPE %s;', o.oid::regtype)
        FROM pg_type o WHERE typtype = 'b' AND typelem = 0 AND o.oid >= 16384 AND {e}
    UNION ALL SELECT format('operator class %I.%I', nspname, opcname), format('DROP OPERATOR CLASS %I.%I USING %I;', nspname, opcname, amname)
        FROM pg_opclass o JOIN pg_namespace n ON n.oid = opcnamespace JOIN pg_am a ON a.oid = opcmethod WHERE o.oid >= 16384 AND {e}
    UNION ALL SELECT format('foreign data wrapper %I', fdwname), format('DROP FOREIGN DATA WRAPPER %I;', fdwname)
        FROM pg_foreign_data_wrapper o WHERE {e}
    UNION ALL SELECT format('access method %I', amname), format('DROP ACCESS METHOD %I;', amname) FROM pg_am o WHERE o.oid >= 16384 AND {e}
    UNION ALL SELECT format('cast from %s to %s without a function', castsource::regtype, casttarget::regtype),
        format('DROP CAST (%s AS %s);', castsource::regtype, casttarget::regtype)
        FROM pg_cast o WHERE castmethod = 'b' AND o.oid >= 16384 AND {e}
    UNION ALL SELECT format('text search parser %I.%I', nspname, prsname), format('DROP TEXT SEARCH PARSER %I.%I;', nspname, prsname)
        FROM pg_ts_parser o JOIN pg_namespace n ON n.oid = prsnamespace WHERE o.oid >= 16384 AND {e}
    UNION ALL SELECT format('text search template %I.%I', nspname, tmplname), format('DROP TEXT SEARCH TEMPLATE %I.%I;', nspname, tmplname)
        FROM pg_ts_template o JOIN pg_namespace n ON n.oid = tmplnamespace WHERE o.oid >= 16384 AND {e}
    ORDER BY 1";

/// Tried for the event triggers, which managed services let some make.
const TRY_EVENT_TRIGGER: &str = "CREATE FUNCTION pg_temp.bluegreen_try() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; \
     CREATE EVENT TRIGGER bluegreen_try ON ddl_command_end WHEN TAG IN ('CREATE CONVERSION') EXECUTE FUNCTION pg_temp.bluegreen_try()";

async fn objects(look: &mut Look<'_>) -> Result<()> {
    let not_of_extension =
        "NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.tableoid AND d.objid = o.oid AND d.deptype = 'e')";
    let mut found: Vec<[String; 2]> = texts::<2>(look.blue, &OBJECTS.replace("{e}", not_of_extension)).await?;
    let is_trigger = |what: &str| what.starts_with("event trigger ");
    if found.iter().any(|[what, _]| is_trigger(what)) && may(look, TRY_EVENT_TRIGGER).await? {
        found.retain(|[what, _]| !is_trigger(what));
    }
    if !found.is_empty() {
        let seen: Vec<&String> = found.iter().map(|[what, _]| what).collect();
        let user = ident(look.context.settings.green.conninfo().user());
        look.blocks(
            "right-superuser-objects",
            format!(
                "at blue is what only a superuser may make, and we are none at green: {}",
                listed("thing", &seen)
            ),
            "blue's schema cannot be made on green",
            format!(
                "at green, until the copy is made: ALTER ROLE {user} SUPERUSER; or at blue, what nobody needs: {}",
                commands(found.iter().map(|[_, mend]| mend.clone()))
            ),
        );
    }
    Ok(())
}

/// Rights that somebody granted who is not the owner: a dump grants them as that role, by `SET SESSION AUTHORIZATION`.
async fn grantors(look: &mut Look<'_>) -> Result<()> {
    let mine = "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'bluegreen') AND NOT EXISTS (SELECT FROM pg_depend d \
         WHERE d.classid = o.tableoid AND d.objid = o.oid AND d.deptype = 'e')";
    let of = |kind: &str, class: &str, prefix: &str, name: &str, acl: &str| {
        format!(
            "SELECT {kind}, {name}, a.privilege_type, a.grantor, a.grantee, a.is_grantable FROM {class} o \
             JOIN pg_namespace n ON n.oid = o.{prefix}namespace CROSS JOIN LATERAL aclexplode(o.{acl}) AS a \
             WHERE {mine} AND a.grantor <> o.{prefix}owner"
        )
    };
    let sql = format!(
        "SELECT format('%s on %s %s by %I', privilege_type, kind, name, pg_get_userbyid(grantor)), \
         format('SET ROLE %1$I; REVOKE %2$s ON %3$s %4$s FROM %5$s CASCADE; RESET ROLE; GRANT %2$s ON %3$s %4$s TO %5$s%6$s;', \
          pg_get_userbyid(grantor), privilege_type, kind, name, CASE grantee WHEN 0 THEN 'PUBLIC' \
          ELSE quote_ident(pg_get_userbyid(grantee)) END, CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) \
         FROM ({} UNION ALL {} UNION ALL {} UNION ALL SELECT 'SCHEMA', quote_ident(n.nspname), a.privilege_type, a.grantor, a.grantee, \
          a.is_grantable FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) AS a \
          WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'bluegreen') AND a.grantor <> n.nspowner) \
         AS given (kind, name, privilege_type, grantor, grantee, is_grantable) ORDER BY 1",
        of(
            "CASE o.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END",
            "pg_class",
            "rel",
            "format('%I.%I', n.nspname, o.relname)",
            "relacl"
        ),
        of("'ROUTINE'", "pg_proc", "pro", "o.oid::regprocedure::text", "proacl"),
        of("'TYPE'", "pg_type", "typ", "o.oid::regtype::text", "typacl"),
    );
    let given = texts::<2>(look.blue, &sql).await?;
    if !given.is_empty() {
        let seen: Vec<&String> = given.iter().map(|[what, _]| what).collect();
        look.blocks(
            "right-grantors",
            format!("granted at blue by who is not the owner: {}", listed("right", &seen)),
            "such a right is granted again in the name of who granted it, which only a superuser may do at green",
            format!(
                "let the owner grant it; at blue, as a superuser: {}",
                commands(given.iter().map(|[_, mend]| mend.clone()))
            ),
        );
    }
    Ok(())
}
