-- One JSON document with everything a user put on the table $1, each part as text that makes it again. search_path is
-- pg_catalog, so definitions qualify every name that is not built in. Options that begin with pg_ are the server's own.
SELECT json_build_object(
    'oid', c.oid::bigint,
    -- The number of a session's temporary schema means nothing to its user.
    'name', json_build_object(
        'schema', CASE n.oid WHEN pg_my_temp_schema() THEN 'pg_temp' ELSE n.nspname END, 'name', c.relname),
    'kind', c.relkind,
    'persistence', c.relpersistence,
    'owner', pg_get_userbyid(c.relowner),
    'is_partition', c.relispartition,
    'is_typed', c.reloftype <> 0,
    'has_parents', EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid),
    'has_children', EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid),
    'is_system', c.oid < 16384 OR n.nspname IN ('pg_catalog', 'information_schema', 'pg_toast', 'shardkeeper', 'shardkeeper_trash', 'shardkeeper_nodes'),
    'partition_key', pg_get_partkeydef(c.oid),
    'tablespace', (SELECT spcname FROM pg_tablespace t WHERE t.oid = c.reltablespace),
    'access_method', (SELECT amname FROM pg_am a WHERE a.oid = c.relam AND c.relkind = 'r' AND amname <> 'heap'),
    'options', ARRAY(
        SELECT o FROM unnest(c.reloptions) AS o WHERE o NOT LIKE 'pg\_%'
        UNION ALL
        SELECT 'toast.' || o FROM pg_class t, unnest(t.reloptions) AS o WHERE t.oid = c.reltoastrelid AND o NOT LIKE 'pg\_%'),
    'replica_identity', c.relreplident,
    'row_security', c.relrowsecurity,
    'force_row_security', c.relforcerowsecurity,
    'comment', obj_description(c.oid, 'pg_class'),
    'has_toast', c.reltoastrelid <> 0 OR c.relkind = 'p',
    'grants', CASE WHEN c.relacl IS NOT NULL THEN (
        SELECT coalesce(json_agg(g), '[]') FROM (
            SELECT json_build_object('role', CASE WHEN grantee = 0 THEN NULL ELSE pg_get_userbyid(grantee) END,
                'privileges', json_agg(privilege_type ORDER BY privilege_type), 'grantable', is_grantable) AS g
            FROM aclexplode(c.relacl) GROUP BY grantee, is_grantable ORDER BY grantee, is_grantable) AS x) END,
    'default_grantees', (
        SELECT coalesce(json_agg(DISTINCT CASE WHEN x.grantee = 0 THEN NULL ELSE pg_get_userbyid(x.grantee) END), '[]')
        FROM pg_default_acl d, aclexplode(d.defaclacl) x
        WHERE d.defaclobjtype = 'r' AND d.defaclnamespace IN (0, c.relnamespace)),
    'default_sequence_grantees', (
        SELECT coalesce(json_agg(DISTINCT CASE WHEN x.grantee = 0 THEN NULL ELSE pg_get_userbyid(x.grantee) END), '[]')
        FROM pg_default_acl d, aclexplode(d.defaclacl) x
        WHERE d.defaclobjtype = 'S' AND d.defaclnamespace IN (0, c.relnamespace)),
    'columns', (
        SELECT json_agg(json_build_object(
            'name', a.attname,
            'type', format_type(a.atttypid, a.atttypmod),
            'type_oid', a.atttypid::bigint,
            'base_type', CASE ty.typtype WHEN 'd' THEN format_type(ty.typbasetype, ty.typtypmod) ELSE format_type(a.atttypid, a.atttypmod) END,
            'type_kind', ty.typtype,
            'collation', CASE WHEN a.attcollation <> ty.typcollation AND a.attcollation <> 0
                THEN (SELECT quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
                      FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = a.attcollation) END,
            'deterministic', coalesce((SELECT collisdeterministic FROM pg_collation WHERE oid = a.attcollation), true),
            'not_null', a.attnotnull,
            -- A constraint of its own from 18 on.
            'not_null_constraint', (
                SELECT json_build_object('name', k.conname, 'valid', k.convalidated, 'comment', obj_description(k.oid, 'pg_constraint'))
                FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum]),
            'generated', a.attgenerated,
            'identity', a.attidentity,
            'default', CASE WHEN a.attgenerated = '' OR a.attgenerated IN ('s', 'v') THEN pg_get_expr(ad.adbin, ad.adrelid) END,
            -- Of a domain that the values are of, or parts of them, what they need not fulfil yet.
            'unchecked', CASE WHEN a.atttypid >= 16384 THEN (
                WITH RECURSIVE part AS (
                    SELECT a.atttypid AS oid
                    UNION
                    SELECT CASE p.typtype WHEN 'd' THEN p.typbasetype ELSE p.typelem END
                    FROM part JOIN pg_type p ON p.oid = part.oid WHERE p.typtype = 'd' OR p.typelem <> 0)
                SELECT min(format('constraint %I of domain %s', k.conname, k.contypid::regtype))
                FROM part JOIN pg_constraint k ON k.contypid = part.oid WHERE NOT k.convalidated) END,
            'default_is_local', EXISTS (
                SELECT FROM pg_depend d WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = ad.oid
                AND d.refclassid IN ('pg_proc'::regclass, 'pg_class'::regclass) AND d.refobjid <> c.oid),
            'sequence', (
                SELECT json_build_object(
                    'name', json_build_object('schema', sn.nspname, 'name', s.relname),
                    'start', q.seqstart, 'increment', q.seqincrement, 'min', q.seqmin, 'max', q.seqmax, 'cache', q.seqcache,
                    'cycle', q.seqcycle, 'comment', obj_description(s.oid, 'pg_class'),
                    'grants', CASE WHEN s.relacl IS NOT NULL THEN (
                        SELECT coalesce(json_agg(g), '[]') FROM (
                            SELECT json_build_object('role', CASE WHEN grantee = 0 THEN NULL ELSE pg_get_userbyid(grantee) END,
                                'privileges', json_agg(privilege_type ORDER BY privilege_type), 'grantable', is_grantable) AS g
                            FROM aclexplode(s.relacl) GROUP BY grantee, is_grantable ORDER BY grantee, is_grantable) AS x) END)
                FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
                JOIN pg_namespace sn ON sn.oid = s.relnamespace JOIN pg_sequence q ON q.seqrelid = s.oid
                WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
                  AND d.refobjsubid = a.attnum AND d.deptype = 'i'),
            'owned', (
                SELECT coalesce(json_agg(json_build_object('schema', sn.nspname, 'name', s.relname) ORDER BY s.oid), '[]')
                FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
                JOIN pg_namespace sn ON sn.oid = s.relnamespace
                WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
                  AND d.refobjsubid = a.attnum AND d.deptype = 'a'),
            'storage', CASE WHEN a.attstorage <> ty.typstorage THEN
                CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'x' THEN 'EXTENDED' ELSE 'MAIN' END END,
            'compression', CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END,
            'statistics', CASE WHEN a.attstattarget >= 0 THEN a.attstattarget END,
            'options', ARRAY(SELECT o FROM unnest(a.attoptions) AS o WHERE o NOT LIKE 'pg\_%'),
            'comment', col_description(c.oid, a.attnum),
            'grants', (
                SELECT coalesce(json_agg(g), '[]') FROM (
                    SELECT json_build_object('role', CASE WHEN grantee = 0 THEN NULL ELSE pg_get_userbyid(grantee) END,
                        'privileges', json_agg(privilege_type ORDER BY privilege_type), 'grantable', is_grantable) AS g
                    FROM aclexplode(a.attacl) GROUP BY grantee, is_grantable ORDER BY grantee, is_grantable) AS x)
            ) ORDER BY a.attnum)
        FROM pg_attribute a JOIN pg_type ty ON ty.oid = a.atttypid
        LEFT JOIN pg_attrdef ad ON ad.adrelid = a.attrelid AND ad.adnum = a.attnum
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    'checks', (
        SELECT coalesce(json_agg(json_build_object('name', k.conname,
            'definition', CASE WHEN k.connoinherit THEN replace(d.words, ' NO INHERIT', '') ELSE d.words END,
            'comment', obj_description(k.oid, 'pg_constraint')) ORDER BY k.oid), '[]')
        -- Definitions are told as of now, and are gone with what was dropped since the snapshot.
        FROM pg_constraint k CROSS JOIN LATERAL (SELECT pg_get_constraintdef(k.oid) AS words OFFSET 0) AS d
        WHERE k.conrelid = c.oid AND k.contype = 'c' AND d.words IS NOT NULL),
    'exclusions', (SELECT coalesce(json_agg(conname), '[]') FROM pg_constraint WHERE conrelid = c.oid AND contype = 'x'),
    'keys', (
        SELECT coalesce(json_agg(json_build_object(
            'name', i.relname,
            -- Postgres leaves out storage parameters; they stand before the words on deferring.
            'constraint', left(pg_get_constraintdef(k.oid), length(pg_get_constraintdef(k.oid)) - length(late.words))
                || coalesce(' WITH (' || (SELECT string_agg(format('%I = %L', o.option_name, o.option_value), ', ')
                                          FROM pg_options_to_table(i.reloptions) AS o) || ')', '') || late.words,
            'primary', x.indisprimary,
            'unique', x.indisunique,
            'definition', substr(d.words, 1 + length(
                'CREATE ' || CASE WHEN x.indisunique THEN 'UNIQUE ' ELSE '' END || 'INDEX ' || quote_ident(i.relname) || ' ON '
                || CASE WHEN i.relkind = 'I' THEN 'ONLY ' ELSE '' END || quote_ident(n.nspname) || '.' || quote_ident(c.relname) || ' USING ')),
            'columns', (
                SELECT coalesce(json_agg(a.attname ORDER BY o.ord), '[]')
                FROM unnest(x.indkey::smallint[]) WITH ORDINALITY AS o(attnum, ord)
                JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = o.attnum WHERE o.ord <= x.indnkeyatts),
            'tablespace', (SELECT spcname FROM pg_tablespace t WHERE t.oid = i.reltablespace),
            'clustered', x.indisclustered,
            'replica_identity', x.indisreplident,
            'valid', x.indisvalid,
            'comment', obj_description(k.oid, 'pg_constraint'),
            'index_comment', obj_description(i.oid, 'pg_class'),
            'statistics', (
                SELECT coalesce(json_agg(json_build_array(a.attnum, a.attstattarget)), '[]')
                FROM pg_attribute a WHERE a.attrelid = i.oid AND a.attstattarget >= 0)
            ) ORDER BY x.indisprimary DESC, i.oid), '[]')
        FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
        LEFT JOIN pg_constraint k ON k.conindid = i.oid AND k.conrelid = c.oid AND k.contype IN ('p', 'u')
        CROSS JOIN LATERAL (SELECT CASE WHEN k.condeferrable THEN ' DEFERRABLE' ELSE '' END
            || CASE WHEN k.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END AS words) AS late
        CROSS JOIN LATERAL (SELECT pg_get_indexdef(i.oid) AS words OFFSET 0) AS d
        WHERE x.indrelid = c.oid AND d.words IS NOT NULL
          AND NOT EXISTS (SELECT FROM pg_constraint e WHERE e.conindid = i.oid AND e.conrelid = c.oid AND e.contype = 'x')),
    'statistics', (
        SELECT coalesce(json_agg(json_build_object(
            'name', json_build_object('schema', sn.nspname, 'name', s.stxname),
            'definition', left(
                substr(d.words, 1 + length(
                    'CREATE STATISTICS ' || quote_ident(sn.nspname) || '.' || quote_ident(s.stxname))),
                -length(' FROM ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname))),
            'target', CASE WHEN s.stxstattarget >= 0 THEN s.stxstattarget END,
            'comment', obj_description(s.oid, 'pg_statistic_ext')) ORDER BY s.oid), '[]')
        FROM pg_statistic_ext s JOIN pg_namespace sn ON sn.oid = s.stxnamespace
        CROSS JOIN LATERAL (SELECT pg_get_statisticsobjdef(s.oid) AS words OFFSET 0) AS d
        WHERE s.stxrelid = c.oid AND d.words IS NOT NULL),
    'policies', (
        SELECT coalesce(json_agg(json_build_object(
            'name', p.polname, 'permissive', p.polpermissive,
            'command', CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
            'roles', (SELECT json_agg(CASE WHEN r = 0 THEN NULL ELSE pg_get_userbyid(r) END) FROM unnest(p.polroles) AS r),
            'using', pg_get_expr(p.polqual, c.oid), 'check', pg_get_expr(p.polwithcheck, c.oid),
            'comment', obj_description(p.oid, 'pg_policy')) ORDER BY p.oid), '[]')
        FROM pg_policy p WHERE p.polrelid = c.oid),
    'triggers', (
        SELECT coalesce(json_agg(json_build_object(
            'name', t.tgname, 'definition', d.words, 'enabled', t.tgenabled,
            'constraint', t.tgconstraint <> 0, 'transition', t.tgoldtable IS NOT NULL OR t.tgnewtable IS NOT NULL,
            'comment', obj_description(t.oid, 'pg_trigger')) ORDER BY t.tgname), '[]')
        FROM pg_trigger t CROSS JOIN LATERAL (SELECT pg_get_triggerdef(t.oid) AS words OFFSET 0) AS d
        WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND d.words IS NOT NULL),
    'publications', (
        SELECT coalesce(json_agg(json_build_object(
            'name', p.pubname, 'via_root', p.pubviaroot, 'where', pg_get_expr(r.prqual, c.oid),
            'columns', (SELECT json_agg(a.attname ORDER BY a.attnum) FROM unnest(r.prattrs::smallint[]) AS k
                        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k)) ORDER BY p.pubname), '[]')
        FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
        WHERE r.prrelid = c.oid AND p.pubname !~ '^shardkeeper_back_')
)::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = $1
