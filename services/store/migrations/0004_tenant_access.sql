-- Row-level security for the API: its transactions run as the role reverie_api, which sees and
-- writes the rows of one tenant only: the one that the setting reverie.tenant_id names. Where it names
-- none, there are no rows. The owner of the tables, as which every other process connects, sees
-- all rows.

DO $$
BEGIN
    -- Roles belong to the server, so the role may exist because of another database.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'reverie_api') THEN
        BEGIN
            CREATE ROLE reverie_api NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- another database's migration was quicker
        END;
    END IF;
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        BEGIN
            EXECUTE format('GRANT reverie_api TO %I', current_user);
        EXCEPTION WHEN insufficient_privilege THEN
            IF NOT pg_has_role('reverie_api', 'MEMBER') THEN
                RAISE;
            END IF;
        END;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION 'the role reverie_api is missing, or % is not a member of it', current_user
        USING HINT = format('As an administrator run once: CREATE ROLE reverie_api NOLOGIN; '
            'GRANT reverie_api TO %I; then migrate again.', current_user);
END $$;

DO $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO reverie_api', current_schema());
END $$;

-- What requests do; above all they delete nothing.
GRANT SELECT, INSERT, UPDATE ON datasets, runs, idempotency_keys, tenant_storage TO reverie_api;
GRANT SELECT, INSERT ON dataset_files, run_documents, events, publications TO reverie_api;
GRANT SELECT ON tenants, quotas, monthly_usage, attempts, checkpoints TO reverie_api;
GRANT UPDATE (name) ON tenants TO reverie_api; -- a lock of the row needs the right to update it
GRANT SELECT ON workers, gpu_classes TO reverie_api; -- of no tenant

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'tenants', 'api_keys', 'idempotency_keys', 'datasets', 'dataset_files', 'runs',
        'run_documents', 'attempts', 'events', 'checkpoints', 'cache_shards', 'run_shards',
        'publications', 'tenant_usage', 'monthly_usage', 'quotas', 'tenant_storage', 'rate_buckets'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY one_tenant ON %I TO reverie_api '
            'USING (tenant_id = current_setting(''reverie.tenant_id'', true))', name);
    END LOOP;
END $$;

-- How fast a GPU class works: the attempts that started in the last hour, and how many tenants wait.
-- A run's expected start depends on them, so requests may know these numbers of all tenants.
DO $$
BEGIN
    EXECUTE format($function$
        CREATE FUNCTION gpu_class_pace(classes text[])
        RETURNS TABLE (gpu_class text, starts bigint, tenants bigint)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp AS $sql$
            SELECT class,
                (SELECT count(*) FROM attempts
                    WHERE attempts.gpu_class = class
                        AND started_at > clock_timestamp() - interval '1 hour'),
                (SELECT count(*) FROM (
                    SELECT DISTINCT tenant_id FROM runs
                    WHERE runs.gpu_class = class AND status = 'queued' AND stage = 'capacity'
                ) AS waiting)
            FROM unnest(classes) AS class
        $sql$
    $function$, current_schema());
END $$;
REVOKE EXECUTE ON FUNCTION gpu_class_pace FROM PUBLIC;
GRANT EXECUTE ON FUNCTION gpu_class_pace TO reverie_api;
