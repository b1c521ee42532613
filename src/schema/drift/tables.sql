-- What the tables `wanted` are like, on the coordinator or on a node, as a JSON array. Partitions inherit columns, keys and most
-- checks, and cannot lose them: of those, only what a table has of its own is told. search_path is pg_catalog.
SELECT coalesce(json_agg(json_build_object(
    'schema', n.nspname, 'name', c.relname, 'kind', c.relkind,
    'above', (SELECT json_build_object('schema', pn.nspname, 'name', p.relname) FROM pg_inherits i
              JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace WHERE i.inhrelid = c.oid),
    'key', pg_get_partkeydef(c.oid),
    'bound', pg_get_expr(c.relpartbound, c.oid),
    'row_security', c.relrowsecurity,
    'not_null', ARRAY(SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attnotnull ORDER BY attnum),
    'checks', (
        SELECT coalesce(json_agg(json_build_object('name', conname, 'definition', replace(pg_get_constraintdef(oid), ' NO INHERIT', '')) ORDER BY conname), '[]')
        FROM pg_constraint WHERE conrelid = c.oid AND contype = 'c' AND coninhcount = 0),
    'columns', CASE WHEN is_root THEN (
        SELECT coalesce(json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
            'collation', (SELECT quote_ident(cn.nspname) || '.' || quote_ident(co.collname) FROM pg_collation co
                          JOIN pg_namespace cn ON cn.oid = co.collnamespace, pg_type ty
                          WHERE co.oid = a.attcollation AND ty.oid = a.atttypid AND ty.typcollation <> co.oid),
            'generated', CASE WHEN a.attgenerated <> '' THEN (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = c.oid AND adnum = a.attnum) END)
            ORDER BY a.attnum), '[]')
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) END,
    'keys', CASE WHEN c.relkind = 'p' THEN (
        SELECT coalesce(json_agg(json_build_object('name', i.relname, 'unique', x.indisunique, 'primary', x.indisprimary, 'valid', x.indisvalid,
            'own', NOT i.relispartition, 'definition', substr(pg_get_indexdef(i.oid), strpos(pg_get_indexdef(i.oid), ' USING ') + 7)) ORDER BY i.relname), '[]')
        FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = c.oid) END)), '[]')::text
FROM wanted JOIN pg_class c ON c.oid = to_regclass(wanted.name) JOIN pg_namespace n ON n.oid = c.relnamespace
