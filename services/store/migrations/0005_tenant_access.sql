-- Row-level security of the tables of migration 0005, as in 0004_tenant_access.sql.

GRANT SELECT, INSERT ON batches, audit_events TO reverie_api;
GRANT SELECT, INSERT, UPDATE ON members TO reverie_api;
-- What a request may see of a key: everything but what the key is checked against.
GRANT SELECT (key_id, tenant_id, member_id, name, scopes, created_at, expires_at, last_used_at,
    revoked_at, replaced_by) ON api_keys TO reverie_api;
GRANT INSERT, UPDATE (expires_at, revoked_at, replaced_by) ON api_keys TO reverie_api;
GRANT SELECT ON run_logs TO reverie_api;
GRANT SELECT, UPDATE ON rate_buckets TO reverie_api; -- a batch counts as many requests
GRANT INSERT, UPDATE, DELETE ON secrets TO reverie_api;
-- Where a run goes on that is resumed depends on the shards that are still missing.
GRANT SELECT ON run_shards TO reverie_api;
GRANT SELECT (tenant_id, digest, status) ON cache_shards TO reverie_api;
-- What a request may see of a secret: everything but its content.
GRANT SELECT (secret_id, tenant_id, name, kind, version, warning, created_at, updated_at,
    last_used_at) ON secrets TO reverie_api;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['members', 'audit_events', 'batches', 'run_logs', 'secrets'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY one_tenant ON %I TO reverie_api '
            'USING (tenant_id = current_setting(''reverie.tenant_id'', true))', name);
    END LOOP;
END $$;
