-- What is in the trees of the roots among `wanted` beside what is wanted, as a JSON array. Nothing is locked. search_path is pg_catalog.
below (root, id, above) AS (
    SELECT i.inhparent, i.inhrelid, i.inhparent FROM wanted w JOIN pg_inherits i ON i.inhparent = to_regclass(w.name) WHERE w.is_root
    UNION ALL SELECT b.root, i.inhrelid, i.inhparent FROM below b JOIN pg_inherits i ON i.inhparent = b.id
)
SELECT coalesce(json_agg(json_build_object(
    'root', json_build_object('schema', rn.nspname, 'name', r.relname), 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind,
    'above', json_build_object('schema', an.nspname, 'name', a.relname),
    'bound', pg_get_expr(c.relpartbound, c.oid), 'key', pg_get_partkeydef(c.oid)) ORDER BY n.nspname, c.relname), '[]')::text
FROM below b JOIN pg_class c ON c.oid = b.id JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class a ON a.oid = b.above JOIN pg_namespace an ON an.oid = a.relnamespace
JOIN pg_class r ON r.oid = b.root JOIN pg_namespace rn ON rn.oid = r.relnamespace
WHERE c.relispartition AND NOT EXISTS (SELECT FROM wanted o WHERE to_regclass(o.name) = b.id)
