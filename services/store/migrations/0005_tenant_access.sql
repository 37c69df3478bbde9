-- Row-level security of the tables of migration 0005, as in 0004_tenant_access.sql.

GRANT SELECT, INSERT ON batches, audit_events, deletions TO reverie_api;
GRANT UPDATE (deleted_at) ON tenants TO reverie_api;
GRANT SELECT (service_id) ON restore_guard TO reverie_api; -- names the folder of audit anchors
GRANT SELECT, INSERT, UPDATE ON members TO reverie_api;
-- What a request may see of a key: everything but what the key is checked against.
GRANT SELECT (key_id, tenant_id, member_id, name, scopes, created_at, expires_at, last_used_at,
    revoked_at, replaced_by) ON api_keys TO reverie_api;
GRANT INSERT, UPDATE (expires_at, revoked_at, replaced_by) ON api_keys TO reverie_api;
GRANT SELECT ON run_logs TO reverie_api;
GRANT SELECT, UPDATE ON rate_buckets TO reverie_api; -- a batch counts as many requests
GRANT INSERT, UPDATE, DELETE ON secrets TO reverie_api;
-- Where a resumed run goes on, and which of a run's shards the tenant has already.
GRANT SELECT ON run_shards TO reverie_api;
GRANT SELECT (tenant_id, digest, kind, status) ON cache_shards TO reverie_api;
-- A new value of a secret lets the relays that use it go on.
GRANT SELECT, INSERT, UPDATE (status, tries, due_at, updated_at) ON metric_relays TO reverie_api;
GRANT SELECT, INSERT, UPDATE ON webhooks, webhook_deliveries TO reverie_api;
-- What a request may see of a secret: everything but its content.
GRANT SELECT (secret_id, tenant_id, name, kind, version, warning, created_at, updated_at,
    last_used_at) ON secrets TO reverie_api;
GRANT SELECT ON measured_encoding TO reverie_api; -- of no tenant

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'members', 'audit_events', 'batches', 'run_logs', 'secrets', 'deletions', 'metric_relays',
        'webhooks', 'webhook_deliveries'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY one_tenant ON %I TO reverie_api '
            'USING (tenant_id = current_setting(''reverie.tenant_id'', true))', name);
    END LOOP;
END $$;

-- What attempts of all tenants took on a GPU class, the newest ones, without saying whose they were.
-- Estimates are made of them.
DO $$
BEGIN
    EXECUTE format($function$
        CREATE FUNCTION newest_measured_attempts(class text, base text)
        RETURNS TABLE (work jsonb, num_steps integer, step_s double precision,
            start_s double precision, checkpoint_s double precision, end_s double precision,
            total_s double precision, process_s double precision, charged_s double precision)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp AS $sql$
            SELECT work, num_steps, step_s, start_s, checkpoint_s, end_s, total_s, process_s,
                charged_s
            FROM measured_attempts WHERE gpu_class = class AND base_model = base
            ORDER BY created_at DESC LIMIT 200
        $sql$
    $function$, current_schema());
END $$;
REVOKE EXECUTE ON FUNCTION newest_measured_attempts FROM PUBLIC;
GRANT EXECUTE ON FUNCTION newest_measured_attempts TO reverie_api;
