--
-- PostgreSQL database dump
--


-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: alembic_version; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);


--
-- Name: api_keys; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.api_keys (
    key_id text NOT NULL,
    tenant_id text NOT NULL,
    key_sha256 text NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    revoked_at timestamp with time zone
);


--
-- Name: attempts; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.attempts (
    attempt_id text NOT NULL,
    run_id text NOT NULL,
    tenant_id text NOT NULL,
    fence bigint NOT NULL,
    worker_id text NOT NULL,
    from_step integer NOT NULL,
    last_step integer NOT NULL,
    last_event bigint DEFAULT 0 NOT NULL,
    outcome text,
    reason jsonb,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ended_at timestamp with time zone
);


--
-- Name: cache_shards; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.cache_shards (
    tenant_id text NOT NULL,
    digest text NOT NULL,
    kind text NOT NULL,
    spec jsonb NOT NULL,
    base_model text NOT NULL,
    status text DEFAULT 'pending'::text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    error jsonb,
    manifest_sha256 text,
    size_bytes bigint,
    ring_after timestamp with time zone,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    done_at timestamp with time zone,
    CONSTRAINT cache_shards_kind_check CHECK ((kind = ANY (ARRAY['latents'::text, 'text'::text, 'masks'::text]))),
    CONSTRAINT cache_shards_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'done'::text, 'failed'::text])))
);


--
-- Name: checkpoints; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.checkpoints (
    run_id text NOT NULL,
    step integer NOT NULL,
    tenant_id text NOT NULL,
    fence bigint NOT NULL,
    key_prefix text NOT NULL,
    manifest_sha256 text NOT NULL,
    size_bytes bigint NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);


--
-- Name: dataset_files; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.dataset_files (
    dataset_id text NOT NULL,
    tenant_id text NOT NULL,
    path text NOT NULL,
    media text NOT NULL,
    size_bytes bigint NOT NULL,
    sha256 text NOT NULL,
    width_px integer,
    height_px integer,
    text text,
    CONSTRAINT dataset_files_media_check CHECK ((media = ANY (ARRAY['image'::text, 'caption'::text])))
);


--
-- Name: datasets; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.datasets (
    dataset_id text NOT NULL,
    tenant_id text NOT NULL,
    name text NOT NULL,
    status text NOT NULL,
    errors jsonb DEFAULT '[]'::jsonb NOT NULL,
    ring_after timestamp with time zone,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT datasets_status_check CHECK ((status = ANY (ARRAY['uploading'::text, 'verifying'::text, 'ready'::text, 'rejected'::text])))
);


--
-- Name: events; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.events (
    run_id text NOT NULL,
    seq bigint NOT NULL,
    tenant_id text NOT NULL,
    fence bigint NOT NULL,
    type text NOT NULL,
    step integer NOT NULL,
    data jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);


--
-- Name: idempotency_keys; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.idempotency_keys (
    tenant_id text NOT NULL,
    method text NOT NULL,
    path text NOT NULL,
    key text NOT NULL,
    fingerprint text NOT NULL,
    status integer,
    body jsonb,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);


--
-- Name: publications; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.publications (
    publication_id text NOT NULL,
    tenant_id text NOT NULL,
    run_id text NOT NULL,
    target jsonb NOT NULL,
    status text NOT NULL,
    fence bigint DEFAULT 0 NOT NULL,
    lease_until timestamp with time zone,
    attempts integer DEFAULT 0 NOT NULL,
    location text,
    revision text,
    error jsonb,
    ring_after timestamp with time zone,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT publications_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'running'::text, 'succeeded'::text, 'failed'::text])))
);


--
-- Name: run_shards; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.run_shards (
    run_id text NOT NULL,
    tenant_id text NOT NULL,
    digest text NOT NULL
);


--
-- Name: runs; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.runs (
    run_id text NOT NULL,
    tenant_id text NOT NULL,
    request jsonb NOT NULL,
    plan jsonb NOT NULL,
    plan_digest text NOT NULL,
    warnings jsonb DEFAULT '[]'::jsonb NOT NULL,
    base_model text NOT NULL,
    datasets jsonb NOT NULL,
    data_index jsonb,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    gpu_class text NOT NULL,
    priority integer DEFAULT 0 NOT NULL,
    status text NOT NULL,
    stage text,
    status_reason jsonb,
    version bigint DEFAULT 1 NOT NULL,
    event_seq bigint DEFAULT 0 NOT NULL,
    fence bigint DEFAULT 0 NOT NULL,
    worker_id text,
    lease_until timestamp with time zone,
    offered_until timestamp with time zone,
    ring_after timestamp with time zone,
    sweep_after timestamp with time zone,
    attempts_without_progress integer DEFAULT 0 NOT NULL,
    step integer DEFAULT 0 NOT NULL,
    max_steps integer NOT NULL,
    checkpoint_step integer DEFAULT 0 NOT NULL,
    result_step integer,
    result_key_prefix text,
    result_manifest_sha256 text,
    result_size_bytes bigint,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    CONSTRAINT runs_status_check CHECK ((status = ANY (ARRAY['queued'::text, 'running'::text, 'pausing'::text, 'paused'::text, 'canceling'::text, 'succeeded'::text, 'failed'::text, 'canceled'::text])))
);


--
-- Name: tenants; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.tenants (
    tenant_id text NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);


--
-- Name: workers; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.workers (
    worker_id text NOT NULL,
    kind text NOT NULL,
    gpu_class text NOT NULL,
    version text NOT NULL,
    draining boolean DEFAULT false NOT NULL,
    run_id text,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    heartbeat_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);


--
-- Data for Name: alembic_version; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.alembic_version VALUES ('0002');


--
-- Data for Name: api_keys; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.api_keys VALUES ('key_01a222e5d7147d43b1889a0e5f5a9806', 'ten_01a222e5d65d7fbd9d32889820df981c', '32e208826d3d7ce2160024fcc7d8b648820f88b5c16b85a295777b2b93815525', 'laptop', '2026-11-28 16:03:37.876739+00', NULL);


--
-- Data for Name: attempts; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.attempts VALUES ('att_01a222e5d6a37aae9dfb9a88c2977682', 'run_01a222e5d6987405ab0cd52ee6eb35e0', 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'wrk_01a222e5d6a27e77ac4ec0545bcca66c', 0, 30, 2, NULL, NULL, '2026-11-28 16:03:37.764883+00', NULL);
INSERT INTO public.attempts VALUES ('att_01a222e5d6b9778c9d003b79a288ee69', 'run_01a222e5d6b37811b23d2c702da67aac', 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'wrk_01a222e5d6b879379bd32183e0d51ef7', 0, 100, 0, 'finished', NULL, '2026-11-28 16:03:37.787602+00', '2026-11-28 16:03:37.793044+00');
INSERT INTO public.attempts VALUES ('att_01a222e5d6cc7a17967c6b443cb210e8', 'run_01a222e5d6c67726b3a847723480ecc4', 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'wrk_01a222e5d6cc77da97905680bec30448', 0, 0, 0, 'failed', '{"code": "child_died", "message": "child_died.", "category": "infra", "retryable": true}', '2026-11-28 16:03:37.806054+00', '2026-11-28 16:03:37.809174+00');
INSERT INTO public.attempts VALUES ('att_01a222e5d6db7002833f019e751c00ec', 'run_01a222e5d6d572409b930b3c82920d0e', 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'wrk_01a222e5d6da798b99529d7c550f5e5e', 0, 0, 0, 'failed', '{"code": "non_finite_loss", "message": "non_finite_loss.", "category": "user", "retryable": false}', '2026-11-28 16:03:37.820398+00', '2026-11-28 16:03:37.823258+00');
INSERT INTO public.attempts VALUES ('att_01a222e5d6e9782f9f704c40bab111d1', 'run_01a222e5d6e379ecb5407e75a42c0322', 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'wrk_01a222e5d6e8716ab016bbd43c3c439a', 0, 0, 0, NULL, NULL, '2026-11-28 16:03:37.834741+00', NULL);
INSERT INTO public.attempts VALUES ('att_01a222e5d70074fe98b022ee954c189f', 'run_01a222e5d6fa745b8405d8100114aba6', 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'wrk_01a222e5d6ff797db0aa9a3e45445afb', 0, 0, 0, NULL, NULL, '2026-11-28 16:03:37.85823+00', NULL);
INSERT INTO public.attempts VALUES ('att_01a222e5d70e779dbf11a441184e33f5', 'run_01a222e5d7077a989696e8787eb42f33', 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'wrk_01a222e5d70d7ab586af23eaab3f3430', 0, 0, 0, 'stopped', NULL, '2026-11-28 16:03:37.871625+00', '2026-11-28 16:03:37.874639+00');


--
-- Data for Name: cache_shards; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.cache_shards VALUES ('ten_01a222e5d65d7fbd9d32889820df981c', '0e6e3faa51109f9513880d72d272439f757252d2788e3ae0c995e719745ba695', 'text', '{"kind": "text", "encoder": {"compute": "bf16", "max_tokens": 128, "base_digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "entries": [{"text": "picture a"}, {"text": "picture b"}], "version": 1}', 'hidream-tiny', 'done', 0, NULL, 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', 1, NULL, '2026-11-28 16:03:37.716371+00', '2026-11-28 16:03:37.721331+00');
INSERT INTO public.cache_shards VALUES ('ten_01a222e5d65d7fbd9d32889820df981c', '372367a4be7dafffeaf9ffcea5eb1b17d796711869346e224311e51cba09761d', 'text', '{"kind": "text", "encoder": {"compute": "bf16", "max_tokens": 128, "base_digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "entries": [{"text": ""}], "version": 1}', 'hidream-tiny', 'done', 0, NULL, 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', 1, NULL, '2026-11-28 16:03:37.717316+00', '2026-11-28 16:03:37.721673+00');
INSERT INTO public.cache_shards VALUES ('ten_01a222e5d65d7fbd9d32889820df981c', 'abff8cb37f0eea605133c318739b84083da1d3897d5e28bbba2df78b8f78a8dc', 'latents', '{"kind": "latents", "encoder": {"compute": "fp32", "base_digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}, "entries": [{"path": "a.png", "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "geometry": {"crop_x": 0, "crop_y": 0, "resize_h": 256, "resize_w": 256, "width_px": 256, "height_px": 256}}, {"path": "b.png", "sha256": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", "geometry": {"crop_x": 0, "crop_y": 0, "resize_h": 256, "resize_w": 256, "width_px": 256, "height_px": 256}}], "version": 1}', 'hidream-tiny', 'done', 0, NULL, 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', 1, NULL, '2026-11-28 16:03:37.717798+00', '2026-11-28 16:03:37.721987+00');
INSERT INTO public.cache_shards VALUES ('ten_01a222e5d65d7fbd9d32889820df981c', '0000000000000000000000000000000000000000000000000000000000000000', 'text', '{}', 'hidream-tiny', 'done', 0, NULL, 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', 3, NULL, '2026-11-28 16:03:37.756389+00', '2026-11-28 16:03:37.759479+00');
INSERT INTO public.cache_shards VALUES ('ten_01a222e5d72272c98ebb676f19930de9', '0000000000000000000000000000000000000000000000000000000000000000', 'text', '{}', 'hidream-tiny', 'done', 0, NULL, 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', 3, NULL, '2026-11-28 16:03:37.89683+00', '2026-11-28 16:03:37.899495+00');


--
-- Data for Name: checkpoints; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.checkpoints VALUES ('run_01a222e5d6987405ab0cd52ee6eb35e0', 20, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'tenants/ten_01a222e5d65d7fbd9d32889820df981c/runs/run_01a222e5d6987405ab0cd52ee6eb35e0/attempts/1/checkpoints/step-00000020/', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 10, '2026-11-28 16:03:37.772652+00');
INSERT INTO public.checkpoints VALUES ('run_01a222e5d6987405ab0cd52ee6eb35e0', 30, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'tenants/ten_01a222e5d65d7fbd9d32889820df981c/runs/run_01a222e5d6987405ab0cd52ee6eb35e0/attempts/1/checkpoints/step-00000030/', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 10, '2026-11-28 16:03:37.774811+00');
INSERT INTO public.checkpoints VALUES ('run_01a222e5d6b37811b23d2c702da67aac', 50, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'tenants/ten_01a222e5d65d7fbd9d32889820df981c/runs/run_01a222e5d6b37811b23d2c702da67aac/attempts/1/checkpoints/step-00000050/', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 10, '2026-11-28 16:03:37.790029+00');


--
-- Data for Name: dataset_files; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6677405953db69e92ab3a25', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.png', 'image', 9, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6677405953db69e92ab3a25', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture a');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6677405953db69e92ab3a25', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.png', 'image', 9, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6677405953db69e92ab3a25', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture b');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d67f7dc9a7e9fe510c1be177', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.png', 'image', 9, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d67f7dc9a7e9fe510c1be177', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture a');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d67f7dc9a7e9fe510c1be177', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.png', 'image', 9, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d67f7dc9a7e9fe510c1be177', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture b');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d68c7e6aaf8c68b9fdd0514d', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.png', 'image', 9, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d68c7e6aaf8c68b9fdd0514d', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture a');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d68c7e6aaf8c68b9fdd0514d', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.png', 'image', 9, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d68c7e6aaf8c68b9fdd0514d', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture b');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6967c4eb6530d3e3aad7d70', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.png', 'image', 9, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6967c4eb6530d3e3aad7d70', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture a');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6967c4eb6530d3e3aad7d70', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.png', 'image', 9, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6967c4eb6530d3e3aad7d70', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture b');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6b07b9682275cd090113485', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.png', 'image', 9, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6b07b9682275cd090113485', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture a');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6b07b9682275cd090113485', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.png', 'image', 9, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6b07b9682275cd090113485', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture b');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6c37f388fbae96d0b2bb5ae', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.png', 'image', 9, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6c37f388fbae96d0b2bb5ae', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture a');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6c37f388fbae96d0b2bb5ae', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.png', 'image', 9, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6c37f388fbae96d0b2bb5ae', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture b');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6d37f0298d53ca7ae41c70d', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.png', 'image', 9, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6d37f0298d53ca7ae41c70d', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture a');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6d37f0298d53ca7ae41c70d', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.png', 'image', 9, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6d37f0298d53ca7ae41c70d', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture b');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6e17c8993410b27f7541456', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.png', 'image', 9, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6e17c8993410b27f7541456', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture a');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6e17c8993410b27f7541456', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.png', 'image', 9, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6e17c8993410b27f7541456', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture b');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6ee7b37b05c0ec2fc4a3a39', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.png', 'image', 9, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6ee7b37b05c0ec2fc4a3a39', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture a');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6ee7b37b05c0ec2fc4a3a39', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.png', 'image', 9, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6ee7b37b05c0ec2fc4a3a39', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture b');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6f87d1b889d154c95a698a8', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.png', 'image', 9, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6f87d1b889d154c95a698a8', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture a');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6f87d1b889d154c95a698a8', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.png', 'image', 9, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d6f87d1b889d154c95a698a8', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture b');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d70476e3880f14c8a57588a2', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.png', 'image', 9, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d70476e3880f14c8a57588a2', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture a');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d70476e3880f14c8a57588a2', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.png', 'image', 9, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d70476e3880f14c8a57588a2', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture b');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d7167661a140a61169608538', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.png', 'image', 9, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', NULL, NULL, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d7167661a140a61169608538', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d7167661a140a61169608538', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.png', 'image', 9, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', NULL, NULL, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d7167661a140a61169608538', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d7197533993015e77f62f179', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.png', 'image', 9, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d7197533993015e77f62f179', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture a');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d7197533993015e77f62f179', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.png', 'image', 9, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d7197533993015e77f62f179', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture b');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d71e7ae0a818c47c3e2c1a99', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.png', 'image', 9, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d71e7ae0a818c47c3e2c1a99', 'ten_01a222e5d65d7fbd9d32889820df981c', 'a.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture a');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d71e7ae0a818c47c3e2c1a99', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.png', 'image', 9, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d71e7ae0a818c47c3e2c1a99', 'ten_01a222e5d65d7fbd9d32889820df981c', 'b.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture b');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d72473208504f9af8e7b3339', 'ten_01a222e5d72272c98ebb676f19930de9', 'a.png', 'image', 9, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d72473208504f9af8e7b3339', 'ten_01a222e5d72272c98ebb676f19930de9', 'a.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture a');
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d72473208504f9af8e7b3339', 'ten_01a222e5d72272c98ebb676f19930de9', 'b.png', 'image', 9, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 128, 128, NULL);
INSERT INTO public.dataset_files VALUES ('ds_01a222e5d72473208504f9af8e7b3339', 'ten_01a222e5d72272c98ebb676f19930de9', 'b.txt', 'caption', 5, 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', NULL, NULL, 'picture b');


--
-- Data for Name: datasets; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.datasets VALUES ('ds_01a222e5d6677405953db69e92ab3a25', 'ten_01a222e5d65d7fbd9d32889820df981c', 'photos', 'ready', '[]', NULL, '2026-11-28 16:03:37.703593+00', '2026-11-28 16:03:37.707339+00');
INSERT INTO public.datasets VALUES ('ds_01a222e5d67f7dc9a7e9fe510c1be177', 'ten_01a222e5d65d7fbd9d32889820df981c', 'photos', 'ready', '[]', NULL, '2026-11-28 16:03:37.72788+00', '2026-11-28 16:03:37.729723+00');
INSERT INTO public.datasets VALUES ('ds_01a222e5d68c7e6aaf8c68b9fdd0514d', 'ten_01a222e5d65d7fbd9d32889820df981c', 'photos', 'ready', '[]', NULL, '2026-11-28 16:03:37.741121+00', '2026-11-28 16:03:37.742811+00');
INSERT INTO public.datasets VALUES ('ds_01a222e5d6967c4eb6530d3e3aad7d70', 'ten_01a222e5d65d7fbd9d32889820df981c', 'photos', 'ready', '[]', NULL, '2026-11-28 16:03:37.750204+00', '2026-11-28 16:03:37.751737+00');
INSERT INTO public.datasets VALUES ('ds_01a222e5d6b07b9682275cd090113485', 'ten_01a222e5d65d7fbd9d32889820df981c', 'photos', 'ready', '[]', NULL, '2026-11-28 16:03:37.77683+00', '2026-11-28 16:03:37.778485+00');
INSERT INTO public.datasets VALUES ('ds_01a222e5d6c37f388fbae96d0b2bb5ae', 'ten_01a222e5d65d7fbd9d32889820df981c', 'photos', 'ready', '[]', NULL, '2026-11-28 16:03:37.795979+00', '2026-11-28 16:03:37.797833+00');
INSERT INTO public.datasets VALUES ('ds_01a222e5d6d37f0298d53ca7ae41c70d', 'ten_01a222e5d65d7fbd9d32889820df981c', 'photos', 'ready', '[]', NULL, '2026-11-28 16:03:37.811263+00', '2026-11-28 16:03:37.812827+00');
INSERT INTO public.datasets VALUES ('ds_01a222e5d6e17c8993410b27f7541456', 'ten_01a222e5d65d7fbd9d32889820df981c', 'photos', 'ready', '[]', NULL, '2026-11-28 16:03:37.825424+00', '2026-11-28 16:03:37.826978+00');
INSERT INTO public.datasets VALUES ('ds_01a222e5d6ee7b37b05c0ec2fc4a3a39', 'ten_01a222e5d65d7fbd9d32889820df981c', 'photos', 'ready', '[]', NULL, '2026-11-28 16:03:37.838494+00', '2026-11-28 16:03:37.841307+00');
INSERT INTO public.datasets VALUES ('ds_01a222e5d6f87d1b889d154c95a698a8', 'ten_01a222e5d65d7fbd9d32889820df981c', 'photos', 'ready', '[]', NULL, '2026-11-28 16:03:37.848551+00', '2026-11-28 16:03:37.850036+00');
INSERT INTO public.datasets VALUES ('ds_01a222e5d70476e3880f14c8a57588a2', 'ten_01a222e5d65d7fbd9d32889820df981c', 'photos', 'ready', '[]', NULL, '2026-11-28 16:03:37.860934+00', '2026-11-28 16:03:37.862514+00');
INSERT INTO public.datasets VALUES ('ds_01a222e5d7167661a140a61169608538', 'ten_01a222e5d65d7fbd9d32889820df981c', 'photos', 'uploading', '[]', NULL, '2026-11-28 16:03:37.878634+00', '2026-11-28 16:03:37.878634+00');
INSERT INTO public.datasets VALUES ('ds_01a222e5d7197533993015e77f62f179', 'ten_01a222e5d65d7fbd9d32889820df981c', 'photos', 'ready', '[]', NULL, '2026-11-28 16:03:37.881448+00', '2026-11-28 16:03:37.882842+00');
INSERT INTO public.datasets VALUES ('ds_01a222e5d71e7ae0a818c47c3e2c1a99', 'ten_01a222e5d65d7fbd9d32889820df981c', 'photos', 'ready', '[]', NULL, '2026-11-28 16:03:37.886697+00', '2026-11-28 16:03:37.888066+00');
INSERT INTO public.datasets VALUES ('ds_01a222e5d72473208504f9af8e7b3339', 'ten_01a222e5d72272c98ebb676f19930de9', 'photos', 'ready', '[]', NULL, '2026-11-28 16:03:37.892462+00', '2026-11-28 16:03:37.893897+00');


--
-- Data for Name: events; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.events VALUES ('run_01a222e5d66d7168be54395f9eb71e7d', 1, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "admission", "reason": null}', '2026-11-28 16:03:37.711397+00');
INSERT INTO public.events VALUES ('run_01a222e5d66d7168be54395f9eb71e7d', 2, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.running', 0, '{"stage": "caching", "reason": null}', '2026-11-28 16:03:37.719798+00');
INSERT INTO public.events VALUES ('run_01a222e5d66d7168be54395f9eb71e7d', 3, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "capacity", "reason": null}', '2026-11-28 16:03:37.725341+00');
INSERT INTO public.events VALUES ('run_01a222e5d68277289d7e51c641b504c8', 1, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "admission", "reason": null}', '2026-11-28 16:03:37.731776+00');
INSERT INTO public.events VALUES ('run_01a222e5d68277289d7e51c641b504c8', 2, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "capacity", "reason": null}', '2026-11-28 16:03:37.73841+00');
INSERT INTO public.events VALUES ('run_01a222e5d68f7ae5b77352e0efe94c45', 1, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "admission", "reason": null}', '2026-11-28 16:03:37.74501+00');
INSERT INTO public.events VALUES ('run_01a222e5d68f7ae5b77352e0efe94c45', 2, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.failed', 0, '{"stage": null, "reason": {"code": "empty_dataset", "message": "/data_backends/0: No image left: photos: 2 of 2 images are smaller than minimum_image_size (200 px squared) and are left out (first: a.png).", "category": "user", "retryable": false}}', '2026-11-28 16:03:37.749341+00');
INSERT INTO public.events VALUES ('run_01a222e5d6987405ab0cd52ee6eb35e0', 1, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "admission", "reason": null}', '2026-11-28 16:03:37.754883+00');
INSERT INTO public.events VALUES ('run_01a222e5d6987405ab0cd52ee6eb35e0', 2, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.running', 0, '{"stage": "caching", "reason": null}', '2026-11-28 16:03:37.757865+00');
INSERT INTO public.events VALUES ('run_01a222e5d6987405ab0cd52ee6eb35e0', 3, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "capacity", "reason": null}', '2026-11-28 16:03:37.761452+00');
INSERT INTO public.events VALUES ('run_01a222e5d6987405ab0cd52ee6eb35e0', 4, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'run.started', 0, '{"stage": "provisioning", "reason": null, "attempt": 1}', '2026-11-28 16:03:37.76572+00');
INSERT INTO public.events VALUES ('run_01a222e5d6987405ab0cd52ee6eb35e0', 5, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'stage', 0, '{"stage": "training"}', '2026-11-28 16:03:37.769001+00');
INSERT INTO public.events VALUES ('run_01a222e5d6987405ab0cd52ee6eb35e0', 6, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'step', 1, '{"lr": 0.00001, "loss": 0.123456789}', '2026-11-28 16:03:37.769009+00');
INSERT INTO public.events VALUES ('run_01a222e5d6987405ab0cd52ee6eb35e0', 7, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'run.checkpoint', 10, '{"step": 10, "size_bytes": 10}', '2026-11-28 16:03:37.771465+00');
INSERT INTO public.events VALUES ('run_01a222e5d6987405ab0cd52ee6eb35e0', 8, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'run.checkpoint', 20, '{"step": 20, "size_bytes": 10}', '2026-11-28 16:03:37.773662+00');
INSERT INTO public.events VALUES ('run_01a222e5d6987405ab0cd52ee6eb35e0', 9, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'run.checkpoint', 30, '{"step": 30, "size_bytes": 10}', '2026-11-28 16:03:37.776082+00');
INSERT INTO public.events VALUES ('run_01a222e5d6b37811b23d2c702da67aac', 1, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "admission", "reason": null}', '2026-11-28 16:03:37.780411+00');
INSERT INTO public.events VALUES ('run_01a222e5d6b37811b23d2c702da67aac', 2, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "capacity", "reason": null}', '2026-11-28 16:03:37.783224+00');
INSERT INTO public.events VALUES ('run_01a222e5d6b37811b23d2c702da67aac', 3, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'run.started', 0, '{"stage": "provisioning", "reason": null, "attempt": 1}', '2026-11-28 16:03:37.788162+00');
INSERT INTO public.events VALUES ('run_01a222e5d6b37811b23d2c702da67aac', 4, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'run.checkpoint', 50, '{"step": 50, "size_bytes": 10}', '2026-11-28 16:03:37.791006+00');
INSERT INTO public.events VALUES ('run_01a222e5d6b37811b23d2c702da67aac', 5, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'run.succeeded', 100, '{"stage": null, "reason": null}', '2026-11-28 16:03:37.79415+00');
INSERT INTO public.events VALUES ('run_01a222e5d6c67726b3a847723480ecc4', 1, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "admission", "reason": null}', '2026-11-28 16:03:37.800026+00');
INSERT INTO public.events VALUES ('run_01a222e5d6c67726b3a847723480ecc4', 2, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "capacity", "reason": null}', '2026-11-28 16:03:37.802796+00');
INSERT INTO public.events VALUES ('run_01a222e5d6c67726b3a847723480ecc4', 3, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'run.started', 0, '{"stage": "provisioning", "reason": null, "attempt": 1}', '2026-11-28 16:03:37.806594+00');
INSERT INTO public.events VALUES ('run_01a222e5d6c67726b3a847723480ecc4', 4, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'run.queued', 0, '{"stage": "capacity", "reason": {"code": "child_died", "message": "child_died.", "category": "infra", "retryable": true}}', '2026-11-28 16:03:37.81038+00');
INSERT INTO public.events VALUES ('run_01a222e5d6d572409b930b3c82920d0e', 1, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "admission", "reason": null}', '2026-11-28 16:03:37.814487+00');
INSERT INTO public.events VALUES ('run_01a222e5d6d572409b930b3c82920d0e', 2, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "capacity", "reason": null}', '2026-11-28 16:03:37.817102+00');
INSERT INTO public.events VALUES ('run_01a222e5d6d572409b930b3c82920d0e', 3, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'run.started', 0, '{"stage": "provisioning", "reason": null, "attempt": 1}', '2026-11-28 16:03:37.820921+00');
INSERT INTO public.events VALUES ('run_01a222e5d6d572409b930b3c82920d0e', 4, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'run.failed', 0, '{"stage": null, "reason": {"code": "non_finite_loss", "message": "non_finite_loss.", "category": "user", "retryable": false}}', '2026-11-28 16:03:37.824411+00');
INSERT INTO public.events VALUES ('run_01a222e5d6e379ecb5407e75a42c0322', 1, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "admission", "reason": null}', '2026-11-28 16:03:37.828806+00');
INSERT INTO public.events VALUES ('run_01a222e5d6e379ecb5407e75a42c0322', 2, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "capacity", "reason": null}', '2026-11-28 16:03:37.831466+00');
INSERT INTO public.events VALUES ('run_01a222e5d6e379ecb5407e75a42c0322', 3, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'run.started', 0, '{"stage": "provisioning", "reason": null, "attempt": 1}', '2026-11-28 16:03:37.835232+00');
INSERT INTO public.events VALUES ('run_01a222e5d6f2760c9d8bd6c403013690', 1, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "admission", "reason": null}', '2026-11-28 16:03:37.843184+00');
INSERT INTO public.events VALUES ('run_01a222e5d6e379ecb5407e75a42c0322', 4, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'run.canceling', 0, '{"stage": "stopping", "reason": null}', '2026-11-28 16:03:37.845261+00');
INSERT INTO public.events VALUES ('run_01a222e5d6f2760c9d8bd6c403013690', 2, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.canceling', 0, '{"stage": "stopping", "reason": null}', '2026-11-28 16:03:37.846709+00');
INSERT INTO public.events VALUES ('run_01a222e5d6f2760c9d8bd6c403013690', 3, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.canceled', 0, '{"stage": null, "reason": null}', '2026-11-28 16:03:37.847685+00');
INSERT INTO public.events VALUES ('run_01a222e5d6fa745b8405d8100114aba6', 1, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "admission", "reason": null}', '2026-11-28 16:03:37.851774+00');
INSERT INTO public.events VALUES ('run_01a222e5d6fa745b8405d8100114aba6', 2, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "capacity", "reason": null}', '2026-11-28 16:03:37.854526+00');
INSERT INTO public.events VALUES ('run_01a222e5d6fa745b8405d8100114aba6', 3, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'run.started', 0, '{"stage": "provisioning", "reason": null, "attempt": 1}', '2026-11-28 16:03:37.858815+00');
INSERT INTO public.events VALUES ('run_01a222e5d7077a989696e8787eb42f33', 1, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "admission", "reason": null}', '2026-11-28 16:03:37.864352+00');
INSERT INTO public.events VALUES ('run_01a222e5d7077a989696e8787eb42f33', 2, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "capacity", "reason": null}', '2026-11-28 16:03:37.868522+00');
INSERT INTO public.events VALUES ('run_01a222e5d7077a989696e8787eb42f33', 3, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'run.started', 0, '{"stage": "provisioning", "reason": null, "attempt": 1}', '2026-11-28 16:03:37.872094+00');
INSERT INTO public.events VALUES ('run_01a222e5d7077a989696e8787eb42f33', 4, 'ten_01a222e5d65d7fbd9d32889820df981c', 1, 'run.paused', 0, '{"stage": null, "reason": null}', '2026-11-28 16:03:37.875697+00');
INSERT INTO public.events VALUES ('run_01a222e5d71b73ca9e0db55092a2b07e', 1, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "admission", "reason": null}', '2026-11-28 16:03:37.884489+00');
INSERT INTO public.events VALUES ('run_01a222e5d7207728ad4c0352d4b79a3b', 1, 'ten_01a222e5d65d7fbd9d32889820df981c', 0, 'run.queued', 0, '{"stage": "admission", "reason": null}', '2026-11-28 16:03:37.889691+00');
INSERT INTO public.events VALUES ('run_01a222e5d7267fca96916a2def78dc36', 1, 'ten_01a222e5d72272c98ebb676f19930de9', 0, 'run.queued', 0, '{"stage": "admission", "reason": null}', '2026-11-28 16:03:37.895401+00');
INSERT INTO public.events VALUES ('run_01a222e5d7267fca96916a2def78dc36', 2, 'ten_01a222e5d72272c98ebb676f19930de9', 0, 'run.running', 0, '{"stage": "caching", "reason": null}', '2026-11-28 16:03:37.897968+00');
INSERT INTO public.events VALUES ('run_01a222e5d7267fca96916a2def78dc36', 3, 'ten_01a222e5d72272c98ebb676f19930de9', 0, 'run.queued', 0, '{"stage": "capacity", "reason": null}', '2026-11-28 16:03:37.901266+00');


--
-- Data for Name: idempotency_keys; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.idempotency_keys VALUES ('ten_01a222e5d65d7fbd9d32889820df981c', 'POST', '/v1/runs', 'a-key', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 201, '{"id": "run_01a222e5d6987405ab0cd52ee6eb35e0"}', '2026-11-28 16:03:37.877687+00');


--
-- Data for Name: publications; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.publications VALUES ('pub_01a222e5d6c272e6b968b4c2339f8a94', 'ten_01a222e5d65d7fbd9d32889820df981c', 'run_01a222e5d6b37811b23d2c702da67aac', '{"kind": "hub", "private": true, "repo_id": "ada/dream"}', 'pending', 0, NULL, 0, NULL, NULL, NULL, '2026-11-28 16:03:37.794801+00', '2026-11-28 16:03:37.794801+00', '2026-11-28 16:03:37.794801+00');


--
-- Data for Name: run_shards; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.run_shards VALUES ('run_01a222e5d66d7168be54395f9eb71e7d', 'ten_01a222e5d65d7fbd9d32889820df981c', '0e6e3faa51109f9513880d72d272439f757252d2788e3ae0c995e719745ba695');
INSERT INTO public.run_shards VALUES ('run_01a222e5d66d7168be54395f9eb71e7d', 'ten_01a222e5d65d7fbd9d32889820df981c', '372367a4be7dafffeaf9ffcea5eb1b17d796711869346e224311e51cba09761d');
INSERT INTO public.run_shards VALUES ('run_01a222e5d66d7168be54395f9eb71e7d', 'ten_01a222e5d65d7fbd9d32889820df981c', 'abff8cb37f0eea605133c318739b84083da1d3897d5e28bbba2df78b8f78a8dc');
INSERT INTO public.run_shards VALUES ('run_01a222e5d68277289d7e51c641b504c8', 'ten_01a222e5d65d7fbd9d32889820df981c', '0e6e3faa51109f9513880d72d272439f757252d2788e3ae0c995e719745ba695');
INSERT INTO public.run_shards VALUES ('run_01a222e5d68277289d7e51c641b504c8', 'ten_01a222e5d65d7fbd9d32889820df981c', '372367a4be7dafffeaf9ffcea5eb1b17d796711869346e224311e51cba09761d');
INSERT INTO public.run_shards VALUES ('run_01a222e5d68277289d7e51c641b504c8', 'ten_01a222e5d65d7fbd9d32889820df981c', 'abff8cb37f0eea605133c318739b84083da1d3897d5e28bbba2df78b8f78a8dc');
INSERT INTO public.run_shards VALUES ('run_01a222e5d6987405ab0cd52ee6eb35e0', 'ten_01a222e5d65d7fbd9d32889820df981c', '0000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO public.run_shards VALUES ('run_01a222e5d6b37811b23d2c702da67aac', 'ten_01a222e5d65d7fbd9d32889820df981c', '0000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO public.run_shards VALUES ('run_01a222e5d6c67726b3a847723480ecc4', 'ten_01a222e5d65d7fbd9d32889820df981c', '0000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO public.run_shards VALUES ('run_01a222e5d6d572409b930b3c82920d0e', 'ten_01a222e5d65d7fbd9d32889820df981c', '0000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO public.run_shards VALUES ('run_01a222e5d6e379ecb5407e75a42c0322', 'ten_01a222e5d65d7fbd9d32889820df981c', '0000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO public.run_shards VALUES ('run_01a222e5d6fa745b8405d8100114aba6', 'ten_01a222e5d65d7fbd9d32889820df981c', '0000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO public.run_shards VALUES ('run_01a222e5d7077a989696e8787eb42f33', 'ten_01a222e5d65d7fbd9d32889820df981c', '0000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO public.run_shards VALUES ('run_01a222e5d7267fca96916a2def78dc36', 'ten_01a222e5d72272c98ebb676f19930de9', '0000000000000000000000000000000000000000000000000000000000000000');


--
-- Data for Name: runs; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.runs VALUES ('run_01a222e5d68f7ae5b77352e0efe94c45', 'ten_01a222e5d65d7fbd9d32889820df981c', '{"config": {"note": "ünï ⚘ 1e-4", "model_type": "lora"}, "datasets": {}}', '{"version": 1, "deferred": {}, "identity": {"ema": null, "base": {"name": "hidream-tiny", "digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}, "clip": {"limit": 2.0, "method": "value"}, "seed": 42, "adapter": {"kind": "lokr", "factor": 4, "modules": [{"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}], "linear_dim": 4, "multiplier": 1.0, "use_scalar": false, "full_matrix": true, "linear_alpha": 1.0, "decompose_both": false, "init_lokr_norm": null}, "backends": [{"id": "photos", "crop": false, "role": "train", "masks": null, "repeats": 0, "mask_kind": null, "crop_style": "center", "crop_aspect": "square", "resolution_px": 256, "instance_prompt": null, "caption_strategy": "textfile", "is_regularisation": false, "maximum_image_size_px": null, "minimum_image_size_px": 200, "aspect_bucket_rounding": 2, "target_downsample_size_px": null}], "schedule": {"end": 0.0, "name": "constant_with_warmup", "power": 1.0, "period_steps": null, "warmup_steps": 0}, "objective": {"loss": "l2", "shift": 3.0, "sigma": {"name": "sigmoid", "order": "random", "values": [], "beta_beta": 2.0, "beta_alpha": 2.0, "sigmoid_scale": 1.0}, "huber_c": 0.1, "auto_shift": false, "pad_compat": false, "balance_weight": 0.0, "huber_schedule": "snr", "masked_loss_probability": 1.0}, "optimizer": {"eps": 0.00000001, "name": "optimi-lion", "betas": [0.9, 0.99], "weight_decay": 0.0, "learning_rate": 0.0001}, "precision": {"base": "no_change", "compute": "bf16", "text_encoder_1": "no_change", "text_encoder_2": "no_change", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "model_type": "lokr", "world_size": 1, "max_train_steps": 10, "micro_batch_size": 4, "accumulation_steps": 1, "caption_dropout_probability": 0.1}, "operation": {"device": "auto", "data_dirs": {}, "report_to": [], "ema_device": "cpu", "output_dir": null, "zero_stage": null, "publication": {"private": true, "hub_model_id": null}, "resume_from": "latest", "sample_seed": 42, "quantize_via": "accelerator", "sample_steps": 30, "sample_prompt": "", "sample_guidance": 5.0, "sample_width_px": 256, "sample_height_px": 256, "tracker_run_name": "", "tracker_project_name": "reverie", "text_encoder_4_source": null, "gradient_checkpointing": true, "sample_negative_prompt": "", "checkpoints_total_limit": 5, "checkpoint_step_interval": 500, "gradient_checkpointing_interval": 1}}', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '[]', 'hidream-tiny', '{"photos": "ds_01a222e5d68c7e6aaf8c68b9fdd0514d"}', NULL, '{}', 'cpu', 0, 'failed', NULL, '{"code": "empty_dataset", "message": "/data_backends/0: No image left: photos: 2 of 2 images are smaller than minimum_image_size (200 px squared) and are left out (first: a.png).", "category": "user", "retryable": false}', 2, 2, 0, NULL, NULL, NULL, NULL, NULL, 0, 0, 100, 0, NULL, NULL, NULL, NULL, '2026-11-28 16:03:37.744153+00', '2026-11-28 16:03:37.748782+00', NULL, '2026-11-28 16:03:37.748782+00');
INSERT INTO public.runs VALUES ('run_01a222e5d66d7168be54395f9eb71e7d', 'ten_01a222e5d65d7fbd9d32889820df981c', '{"config": {"note": "ünï ⚘ 1e-4", "model_type": "lora"}, "datasets": {}}', '{"version": 1, "deferred": {}, "identity": {"ema": null, "base": {"name": "hidream-tiny", "digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}, "clip": {"limit": 2.0, "method": "value"}, "seed": 42, "adapter": {"kind": "lokr", "factor": 4, "modules": [{"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}], "linear_dim": 4, "multiplier": 1.0, "use_scalar": false, "full_matrix": true, "linear_alpha": 1.0, "decompose_both": false, "init_lokr_norm": null}, "backends": [{"id": "photos", "crop": false, "role": "train", "masks": null, "repeats": 0, "mask_kind": null, "crop_style": "center", "crop_aspect": "square", "resolution_px": 256, "instance_prompt": null, "caption_strategy": "textfile", "is_regularisation": false, "maximum_image_size_px": null, "minimum_image_size_px": 0, "aspect_bucket_rounding": 2, "target_downsample_size_px": null}], "schedule": {"end": 0.0, "name": "constant_with_warmup", "power": 1.0, "period_steps": null, "warmup_steps": 0}, "objective": {"loss": "l2", "shift": 3.0, "sigma": {"name": "sigmoid", "order": "random", "values": [], "beta_beta": 2.0, "beta_alpha": 2.0, "sigmoid_scale": 1.0}, "huber_c": 0.1, "auto_shift": false, "pad_compat": false, "balance_weight": 0.0, "huber_schedule": "snr", "masked_loss_probability": 1.0}, "optimizer": {"eps": 0.00000001, "name": "optimi-lion", "betas": [0.9, 0.99], "weight_decay": 0.0, "learning_rate": 0.0001}, "precision": {"base": "no_change", "compute": "bf16", "text_encoder_1": "no_change", "text_encoder_2": "no_change", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "model_type": "lokr", "world_size": 1, "max_train_steps": 10, "micro_batch_size": 4, "accumulation_steps": 1, "caption_dropout_probability": 0.1}, "operation": {"device": "auto", "data_dirs": {}, "report_to": [], "ema_device": "cpu", "output_dir": null, "zero_stage": null, "publication": {"private": true, "hub_model_id": null}, "resume_from": "latest", "sample_seed": 42, "quantize_via": "accelerator", "sample_steps": 30, "sample_prompt": "", "sample_guidance": 5.0, "sample_width_px": 256, "sample_height_px": 256, "tracker_run_name": "", "tracker_project_name": "reverie", "text_encoder_4_source": null, "gradient_checkpointing": true, "sample_negative_prompt": "", "checkpoints_total_limit": 5, "checkpoint_step_interval": 500, "gradient_checkpointing_interval": 1}}', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '[]', 'hidream-tiny', '{"photos": "ds_01a222e5d6677405953db69e92ab3a25"}', '{"shards": [{"kind": "text", "spec": {"kind": "text", "encoder": {"compute": "bf16", "max_tokens": 128, "base_digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "entries": [{"text": ""}], "version": 1}, "digest": "372367a4be7dafffeaf9ffcea5eb1b17d796711869346e224311e51cba09761d"}, {"kind": "latents", "spec": {"kind": "latents", "encoder": {"compute": "fp32", "base_digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}, "entries": [{"path": "a.png", "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "geometry": {"crop_x": 0, "crop_y": 0, "resize_h": 256, "resize_w": 256, "width_px": 256, "height_px": 256}}, {"path": "b.png", "sha256": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", "geometry": {"crop_x": 0, "crop_y": 0, "resize_h": 256, "resize_w": 256, "width_px": 256, "height_px": 256}}], "version": 1}, "digest": "abff8cb37f0eea605133c318739b84083da1d3897d5e28bbba2df78b8f78a8dc"}, {"kind": "text", "spec": {"kind": "text", "encoder": {"compute": "bf16", "max_tokens": 128, "base_digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "entries": [{"text": "picture a"}, {"text": "picture b"}], "version": 1}, "digest": "0e6e3faa51109f9513880d72d272439f757252d2788e3ae0c995e719745ba695"}], "prompts": {"": {"row": 0, "shard": 0}}, "samples": [{"mask": null, "path": "a.png", "texts": [{"row": 0, "shard": 2}], "backend": "photos", "latents": {"row": 0, "shard": 1}, "repeats": 0, "held_out": false, "width_px": 256, "height_px": 256}, {"mask": null, "path": "b.png", "texts": [{"row": 1, "shard": 2}], "backend": "photos", "latents": {"row": 1, "shard": 1}, "repeats": 0, "held_out": false, "width_px": 256, "height_px": 256}], "version": 1, "warnings": []}', '{}', 'cpu', 0, 'queued', 'capacity', NULL, 3, 3, 0, NULL, NULL, NULL, NULL, NULL, 0, 0, 100, 0, NULL, NULL, NULL, NULL, '2026-11-28 16:03:37.709973+00', '2026-11-28 16:03:37.724592+00', NULL, NULL);
INSERT INTO public.runs VALUES ('run_01a222e5d68277289d7e51c641b504c8', 'ten_01a222e5d65d7fbd9d32889820df981c', '{"config": {"note": "ünï ⚘ 1e-4", "model_type": "lora"}, "datasets": {}}', '{"version": 1, "deferred": {}, "identity": {"ema": null, "base": {"name": "hidream-tiny", "digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}, "clip": {"limit": 2.0, "method": "value"}, "seed": 42, "adapter": {"kind": "lokr", "factor": 4, "modules": [{"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}], "linear_dim": 4, "multiplier": 1.0, "use_scalar": false, "full_matrix": true, "linear_alpha": 1.0, "decompose_both": false, "init_lokr_norm": null}, "backends": [{"id": "photos", "crop": false, "role": "train", "masks": null, "repeats": 0, "mask_kind": null, "crop_style": "center", "crop_aspect": "square", "resolution_px": 256, "instance_prompt": null, "caption_strategy": "textfile", "is_regularisation": false, "maximum_image_size_px": null, "minimum_image_size_px": 0, "aspect_bucket_rounding": 2, "target_downsample_size_px": null}], "schedule": {"end": 0.0, "name": "constant_with_warmup", "power": 1.0, "period_steps": null, "warmup_steps": 0}, "objective": {"loss": "l2", "shift": 3.0, "sigma": {"name": "sigmoid", "order": "random", "values": [], "beta_beta": 2.0, "beta_alpha": 2.0, "sigmoid_scale": 1.0}, "huber_c": 0.1, "auto_shift": false, "pad_compat": false, "balance_weight": 0.0, "huber_schedule": "snr", "masked_loss_probability": 1.0}, "optimizer": {"eps": 0.00000001, "name": "optimi-lion", "betas": [0.9, 0.99], "weight_decay": 0.0, "learning_rate": 0.0001}, "precision": {"base": "no_change", "compute": "bf16", "text_encoder_1": "no_change", "text_encoder_2": "no_change", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "model_type": "lokr", "world_size": 1, "max_train_steps": 10, "micro_batch_size": 4, "accumulation_steps": 1, "caption_dropout_probability": 0.1}, "operation": {"device": "auto", "data_dirs": {}, "report_to": [], "ema_device": "cpu", "output_dir": null, "zero_stage": null, "publication": {"private": true, "hub_model_id": null}, "resume_from": "latest", "sample_seed": 42, "quantize_via": "accelerator", "sample_steps": 30, "sample_prompt": "", "sample_guidance": 5.0, "sample_width_px": 256, "sample_height_px": 256, "tracker_run_name": "", "tracker_project_name": "reverie", "text_encoder_4_source": null, "gradient_checkpointing": true, "sample_negative_prompt": "", "checkpoints_total_limit": 5, "checkpoint_step_interval": 500, "gradient_checkpointing_interval": 1}}', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '[]', 'hidream-tiny', '{"photos": "ds_01a222e5d6677405953db69e92ab3a25"}', '{"shards": [{"kind": "text", "spec": {"kind": "text", "encoder": {"compute": "bf16", "max_tokens": 128, "base_digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "entries": [{"text": ""}], "version": 1}, "digest": "372367a4be7dafffeaf9ffcea5eb1b17d796711869346e224311e51cba09761d"}, {"kind": "latents", "spec": {"kind": "latents", "encoder": {"compute": "fp32", "base_digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}, "entries": [{"path": "a.png", "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "geometry": {"crop_x": 0, "crop_y": 0, "resize_h": 256, "resize_w": 256, "width_px": 256, "height_px": 256}}, {"path": "b.png", "sha256": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", "geometry": {"crop_x": 0, "crop_y": 0, "resize_h": 256, "resize_w": 256, "width_px": 256, "height_px": 256}}], "version": 1}, "digest": "abff8cb37f0eea605133c318739b84083da1d3897d5e28bbba2df78b8f78a8dc"}, {"kind": "text", "spec": {"kind": "text", "encoder": {"compute": "bf16", "max_tokens": 128, "base_digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "entries": [{"text": "picture a"}, {"text": "picture b"}], "version": 1}, "digest": "0e6e3faa51109f9513880d72d272439f757252d2788e3ae0c995e719745ba695"}], "prompts": {"": {"row": 0, "shard": 0}}, "samples": [{"mask": null, "path": "a.png", "texts": [{"row": 0, "shard": 2}], "backend": "photos", "latents": {"row": 0, "shard": 1}, "repeats": 0, "held_out": false, "width_px": 256, "height_px": 256}, {"mask": null, "path": "b.png", "texts": [{"row": 1, "shard": 2}], "backend": "photos", "latents": {"row": 1, "shard": 1}, "repeats": 0, "held_out": false, "width_px": 256, "height_px": 256}], "version": 1, "warnings": []}', '{}', 'cpu', 0, 'queued', 'capacity', NULL, 2, 2, 0, NULL, NULL, NULL, NULL, NULL, 0, 0, 100, 0, NULL, NULL, NULL, NULL, '2026-11-28 16:03:37.731075+00', '2026-11-28 16:03:37.737709+00', NULL, NULL);
INSERT INTO public.runs VALUES ('run_01a222e5d6987405ab0cd52ee6eb35e0', 'ten_01a222e5d65d7fbd9d32889820df981c', '{"config": {"note": "ünï ⚘ 1e-4", "model_type": "lora"}, "datasets": {}}', '{"version": 1, "deferred": {}, "identity": {"ema": null, "base": {"name": "hidream-tiny", "digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}, "clip": {"limit": 2.0, "method": "value"}, "seed": 42, "adapter": {"kind": "lokr", "factor": 4, "modules": [{"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}], "linear_dim": 4, "multiplier": 1.0, "use_scalar": false, "full_matrix": true, "linear_alpha": 1.0, "decompose_both": false, "init_lokr_norm": null}, "backends": [{"id": "photos", "crop": false, "role": "train", "masks": null, "repeats": 0, "mask_kind": null, "crop_style": "center", "crop_aspect": "square", "resolution_px": 256, "instance_prompt": null, "caption_strategy": "textfile", "is_regularisation": false, "maximum_image_size_px": null, "minimum_image_size_px": 0, "aspect_bucket_rounding": 2, "target_downsample_size_px": null}], "schedule": {"end": 0.0, "name": "constant_with_warmup", "power": 1.0, "period_steps": null, "warmup_steps": 0}, "objective": {"loss": "l2", "shift": 3.0, "sigma": {"name": "sigmoid", "order": "random", "values": [], "beta_beta": 2.0, "beta_alpha": 2.0, "sigmoid_scale": 1.0}, "huber_c": 0.1, "auto_shift": false, "pad_compat": false, "balance_weight": 0.0, "huber_schedule": "snr", "masked_loss_probability": 1.0}, "optimizer": {"eps": 0.00000001, "name": "optimi-lion", "betas": [0.9, 0.99], "weight_decay": 0.0, "learning_rate": 0.0001}, "precision": {"base": "no_change", "compute": "bf16", "text_encoder_1": "no_change", "text_encoder_2": "no_change", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "model_type": "lokr", "world_size": 1, "max_train_steps": 10, "micro_batch_size": 4, "accumulation_steps": 1, "caption_dropout_probability": 0.1}, "operation": {"publication": {"hub_model_id": "ada/dream"}, "checkpoints_total_limit": 2}}', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '[]', 'hidream-tiny', '{"photos": "ds_01a222e5d6967c4eb6530d3e3aad7d70"}', '{"version": 1}', '{}', 'cpu', 0, 'running', 'training', NULL, 8, 9, 1, 'wrk_01a222e5d6a27e77ac4ec0545bcca66c', '2026-11-28 16:04:37.764294+00', NULL, NULL, '2026-11-28 16:03:37.775719+00', 0, 30, 100, 30, NULL, NULL, NULL, NULL, '2026-11-28 16:03:37.753045+00', '2026-11-28 16:03:37.775084+00', '2026-11-28 16:03:37.764295+00', NULL);
INSERT INTO public.runs VALUES ('run_01a222e5d6b37811b23d2c702da67aac', 'ten_01a222e5d65d7fbd9d32889820df981c', '{"config": {"note": "ünï ⚘ 1e-4", "model_type": "lora"}, "datasets": {}}', '{"version": 1, "deferred": {}, "identity": {"ema": null, "base": {"name": "hidream-tiny", "digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}, "clip": {"limit": 2.0, "method": "value"}, "seed": 42, "adapter": {"kind": "lokr", "factor": 4, "modules": [{"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}], "linear_dim": 4, "multiplier": 1.0, "use_scalar": false, "full_matrix": true, "linear_alpha": 1.0, "decompose_both": false, "init_lokr_norm": null}, "backends": [{"id": "photos", "crop": false, "role": "train", "masks": null, "repeats": 0, "mask_kind": null, "crop_style": "center", "crop_aspect": "square", "resolution_px": 256, "instance_prompt": null, "caption_strategy": "textfile", "is_regularisation": false, "maximum_image_size_px": null, "minimum_image_size_px": 0, "aspect_bucket_rounding": 2, "target_downsample_size_px": null}], "schedule": {"end": 0.0, "name": "constant_with_warmup", "power": 1.0, "period_steps": null, "warmup_steps": 0}, "objective": {"loss": "l2", "shift": 3.0, "sigma": {"name": "sigmoid", "order": "random", "values": [], "beta_beta": 2.0, "beta_alpha": 2.0, "sigmoid_scale": 1.0}, "huber_c": 0.1, "auto_shift": false, "pad_compat": false, "balance_weight": 0.0, "huber_schedule": "snr", "masked_loss_probability": 1.0}, "optimizer": {"eps": 0.00000001, "name": "optimi-lion", "betas": [0.9, 0.99], "weight_decay": 0.0, "learning_rate": 0.0001}, "precision": {"base": "no_change", "compute": "bf16", "text_encoder_1": "no_change", "text_encoder_2": "no_change", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "model_type": "lokr", "world_size": 1, "max_train_steps": 10, "micro_batch_size": 4, "accumulation_steps": 1, "caption_dropout_probability": 0.1}, "operation": {"publication": {"hub_model_id": "ada/dream"}, "checkpoints_total_limit": 2}}', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '[]', 'hidream-tiny', '{"photos": "ds_01a222e5d6b07b9682275cd090113485"}', '{"version": 1}', '{}', 'cpu', 0, 'succeeded', NULL, NULL, 5, 5, 1, NULL, NULL, NULL, NULL, '2026-11-28 16:23:37.793685+00', 0, 100, 100, 50, 100, 'tenants/ten_01a222e5d65d7fbd9d32889820df981c/runs/run_01a222e5d6b37811b23d2c702da67aac/attempts/1/result/', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 10, '2026-11-28 16:03:37.779829+00', '2026-11-28 16:03:37.793686+00', '2026-11-28 16:03:37.785909+00', '2026-11-28 16:03:37.793686+00');
INSERT INTO public.runs VALUES ('run_01a222e5d6c67726b3a847723480ecc4', 'ten_01a222e5d65d7fbd9d32889820df981c', '{"config": {"note": "ünï ⚘ 1e-4", "model_type": "lora"}, "datasets": {}}', '{"version": 1, "deferred": {}, "identity": {"ema": null, "base": {"name": "hidream-tiny", "digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}, "clip": {"limit": 2.0, "method": "value"}, "seed": 42, "adapter": {"kind": "lokr", "factor": 4, "modules": [{"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}], "linear_dim": 4, "multiplier": 1.0, "use_scalar": false, "full_matrix": true, "linear_alpha": 1.0, "decompose_both": false, "init_lokr_norm": null}, "backends": [{"id": "photos", "crop": false, "role": "train", "masks": null, "repeats": 0, "mask_kind": null, "crop_style": "center", "crop_aspect": "square", "resolution_px": 256, "instance_prompt": null, "caption_strategy": "textfile", "is_regularisation": false, "maximum_image_size_px": null, "minimum_image_size_px": 0, "aspect_bucket_rounding": 2, "target_downsample_size_px": null}], "schedule": {"end": 0.0, "name": "constant_with_warmup", "power": 1.0, "period_steps": null, "warmup_steps": 0}, "objective": {"loss": "l2", "shift": 3.0, "sigma": {"name": "sigmoid", "order": "random", "values": [], "beta_beta": 2.0, "beta_alpha": 2.0, "sigmoid_scale": 1.0}, "huber_c": 0.1, "auto_shift": false, "pad_compat": false, "balance_weight": 0.0, "huber_schedule": "snr", "masked_loss_probability": 1.0}, "optimizer": {"eps": 0.00000001, "name": "optimi-lion", "betas": [0.9, 0.99], "weight_decay": 0.0, "learning_rate": 0.0001}, "precision": {"base": "no_change", "compute": "bf16", "text_encoder_1": "no_change", "text_encoder_2": "no_change", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "model_type": "lokr", "world_size": 1, "max_train_steps": 10, "micro_batch_size": 4, "accumulation_steps": 1, "caption_dropout_probability": 0.1}, "operation": {"publication": {"hub_model_id": "ada/dream"}, "checkpoints_total_limit": 2}}', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '[]', 'hidream-tiny', '{"photos": "ds_01a222e5d6c37f388fbae96d0b2bb5ae"}', '{"version": 1}', '{}', 'cpu', 0, 'queued', 'capacity', '{"code": "child_died", "message": "child_died.", "category": "infra", "retryable": true}', 4, 4, 1, NULL, NULL, NULL, '2026-11-28 16:03:39.192463+00', '2026-11-28 16:23:37.808906+00', 1, 0, 100, 0, NULL, NULL, NULL, NULL, '2026-11-28 16:03:37.799449+00', '2026-11-28 16:03:37.809832+00', '2026-11-28 16:03:37.805594+00', NULL);
INSERT INTO public.runs VALUES ('run_01a222e5d6d572409b930b3c82920d0e', 'ten_01a222e5d65d7fbd9d32889820df981c', '{"config": {"note": "ünï ⚘ 1e-4", "model_type": "lora"}, "datasets": {}}', '{"version": 1, "deferred": {}, "identity": {"ema": null, "base": {"name": "hidream-tiny", "digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}, "clip": {"limit": 2.0, "method": "value"}, "seed": 42, "adapter": {"kind": "lokr", "factor": 4, "modules": [{"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}], "linear_dim": 4, "multiplier": 1.0, "use_scalar": false, "full_matrix": true, "linear_alpha": 1.0, "decompose_both": false, "init_lokr_norm": null}, "backends": [{"id": "photos", "crop": false, "role": "train", "masks": null, "repeats": 0, "mask_kind": null, "crop_style": "center", "crop_aspect": "square", "resolution_px": 256, "instance_prompt": null, "caption_strategy": "textfile", "is_regularisation": false, "maximum_image_size_px": null, "minimum_image_size_px": 0, "aspect_bucket_rounding": 2, "target_downsample_size_px": null}], "schedule": {"end": 0.0, "name": "constant_with_warmup", "power": 1.0, "period_steps": null, "warmup_steps": 0}, "objective": {"loss": "l2", "shift": 3.0, "sigma": {"name": "sigmoid", "order": "random", "values": [], "beta_beta": 2.0, "beta_alpha": 2.0, "sigmoid_scale": 1.0}, "huber_c": 0.1, "auto_shift": false, "pad_compat": false, "balance_weight": 0.0, "huber_schedule": "snr", "masked_loss_probability": 1.0}, "optimizer": {"eps": 0.00000001, "name": "optimi-lion", "betas": [0.9, 0.99], "weight_decay": 0.0, "learning_rate": 0.0001}, "precision": {"base": "no_change", "compute": "bf16", "text_encoder_1": "no_change", "text_encoder_2": "no_change", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "model_type": "lokr", "world_size": 1, "max_train_steps": 10, "micro_batch_size": 4, "accumulation_steps": 1, "caption_dropout_probability": 0.1}, "operation": {"publication": {"hub_model_id": "ada/dream"}, "checkpoints_total_limit": 2}}', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '[]', 'hidream-tiny', '{"photos": "ds_01a222e5d6d37f0298d53ca7ae41c70d"}', '{"version": 1}', '{}', 'cpu', 0, 'failed', NULL, '{"code": "non_finite_loss", "message": "non_finite_loss.", "category": "user", "retryable": false}', 4, 4, 1, NULL, NULL, NULL, NULL, '2026-11-28 16:23:37.823887+00', 1, 0, 100, 0, NULL, NULL, NULL, NULL, '2026-11-28 16:03:37.813933+00', '2026-11-28 16:03:37.823887+00', '2026-11-28 16:03:37.819955+00', '2026-11-28 16:03:37.823887+00');
INSERT INTO public.runs VALUES ('run_01a222e5d6e379ecb5407e75a42c0322', 'ten_01a222e5d65d7fbd9d32889820df981c', '{"config": {"note": "ünï ⚘ 1e-4", "model_type": "lora"}, "datasets": {}}', '{"version": 1, "deferred": {}, "identity": {"ema": null, "base": {"name": "hidream-tiny", "digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}, "clip": {"limit": 2.0, "method": "value"}, "seed": 42, "adapter": {"kind": "lokr", "factor": 4, "modules": [{"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}], "linear_dim": 4, "multiplier": 1.0, "use_scalar": false, "full_matrix": true, "linear_alpha": 1.0, "decompose_both": false, "init_lokr_norm": null}, "backends": [{"id": "photos", "crop": false, "role": "train", "masks": null, "repeats": 0, "mask_kind": null, "crop_style": "center", "crop_aspect": "square", "resolution_px": 256, "instance_prompt": null, "caption_strategy": "textfile", "is_regularisation": false, "maximum_image_size_px": null, "minimum_image_size_px": 0, "aspect_bucket_rounding": 2, "target_downsample_size_px": null}], "schedule": {"end": 0.0, "name": "constant_with_warmup", "power": 1.0, "period_steps": null, "warmup_steps": 0}, "objective": {"loss": "l2", "shift": 3.0, "sigma": {"name": "sigmoid", "order": "random", "values": [], "beta_beta": 2.0, "beta_alpha": 2.0, "sigmoid_scale": 1.0}, "huber_c": 0.1, "auto_shift": false, "pad_compat": false, "balance_weight": 0.0, "huber_schedule": "snr", "masked_loss_probability": 1.0}, "optimizer": {"eps": 0.00000001, "name": "optimi-lion", "betas": [0.9, 0.99], "weight_decay": 0.0, "learning_rate": 0.0001}, "precision": {"base": "no_change", "compute": "bf16", "text_encoder_1": "no_change", "text_encoder_2": "no_change", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "model_type": "lokr", "world_size": 1, "max_train_steps": 10, "micro_batch_size": 4, "accumulation_steps": 1, "caption_dropout_probability": 0.1}, "operation": {"publication": {"hub_model_id": "ada/dream"}, "checkpoints_total_limit": 2}}', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '[]', 'hidream-tiny', '{"photos": "ds_01a222e5d6e17c8993410b27f7541456"}', '{"version": 1}', '{}', 'cpu', 0, 'canceling', 'stopping', NULL, 4, 4, 1, 'wrk_01a222e5d6e8716ab016bbd43c3c439a', '2026-11-28 16:04:37.834294+00', NULL, NULL, NULL, 0, 0, 100, 0, NULL, NULL, NULL, NULL, '2026-11-28 16:03:37.82821+00', '2026-11-28 16:03:37.844789+00', '2026-11-28 16:03:37.834294+00', NULL);
INSERT INTO public.runs VALUES ('run_01a222e5d6f2760c9d8bd6c403013690', 'ten_01a222e5d65d7fbd9d32889820df981c', '{"config": {"note": "ünï ⚘ 1e-4", "model_type": "lora"}, "datasets": {}}', '{"version": 1, "deferred": {}, "identity": {"ema": null, "base": {"name": "hidream-tiny", "digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}, "clip": {"limit": 2.0, "method": "value"}, "seed": 42, "adapter": {"kind": "lokr", "factor": 4, "modules": [{"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}], "linear_dim": 4, "multiplier": 1.0, "use_scalar": false, "full_matrix": true, "linear_alpha": 1.0, "decompose_both": false, "init_lokr_norm": null}, "backends": [{"id": "photos", "crop": false, "role": "train", "masks": null, "repeats": 0, "mask_kind": null, "crop_style": "center", "crop_aspect": "square", "resolution_px": 256, "instance_prompt": null, "caption_strategy": "textfile", "is_regularisation": false, "maximum_image_size_px": null, "minimum_image_size_px": 0, "aspect_bucket_rounding": 2, "target_downsample_size_px": null}], "schedule": {"end": 0.0, "name": "constant_with_warmup", "power": 1.0, "period_steps": null, "warmup_steps": 0}, "objective": {"loss": "l2", "shift": 3.0, "sigma": {"name": "sigmoid", "order": "random", "values": [], "beta_beta": 2.0, "beta_alpha": 2.0, "sigmoid_scale": 1.0}, "huber_c": 0.1, "auto_shift": false, "pad_compat": false, "balance_weight": 0.0, "huber_schedule": "snr", "masked_loss_probability": 1.0}, "optimizer": {"eps": 0.00000001, "name": "optimi-lion", "betas": [0.9, 0.99], "weight_decay": 0.0, "learning_rate": 0.0001}, "precision": {"base": "no_change", "compute": "bf16", "text_encoder_1": "no_change", "text_encoder_2": "no_change", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "model_type": "lokr", "world_size": 1, "max_train_steps": 10, "micro_batch_size": 4, "accumulation_steps": 1, "caption_dropout_probability": 0.1}, "operation": {"device": "auto", "data_dirs": {}, "report_to": [], "ema_device": "cpu", "output_dir": null, "zero_stage": null, "publication": {"private": true, "hub_model_id": null}, "resume_from": "latest", "sample_seed": 42, "quantize_via": "accelerator", "sample_steps": 30, "sample_prompt": "", "sample_guidance": 5.0, "sample_width_px": 256, "sample_height_px": 256, "tracker_run_name": "", "tracker_project_name": "reverie", "text_encoder_4_source": null, "gradient_checkpointing": true, "sample_negative_prompt": "", "checkpoints_total_limit": 5, "checkpoint_step_interval": 500, "gradient_checkpointing_interval": 1}}', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '[]', 'hidream-tiny', '{"photos": "ds_01a222e5d6ee7b37b05c0ec2fc4a3a39"}', NULL, '{}', 'cpu', 0, 'canceled', NULL, NULL, 3, 3, 0, NULL, NULL, NULL, NULL, NULL, 0, 0, 100, 0, NULL, NULL, NULL, NULL, '2026-11-28 16:03:37.842547+00', '2026-11-28 16:03:37.847267+00', NULL, '2026-11-28 16:03:37.847267+00');
INSERT INTO public.runs VALUES ('run_01a222e5d6fa745b8405d8100114aba6', 'ten_01a222e5d65d7fbd9d32889820df981c', '{"config": {"note": "ünï ⚘ 1e-4", "model_type": "lora"}, "datasets": {}}', '{"version": 1, "deferred": {}, "identity": {"ema": null, "base": {"name": "hidream-tiny", "digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}, "clip": {"limit": 2.0, "method": "value"}, "seed": 42, "adapter": {"kind": "lokr", "factor": 4, "modules": [{"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}], "linear_dim": 4, "multiplier": 1.0, "use_scalar": false, "full_matrix": true, "linear_alpha": 1.0, "decompose_both": false, "init_lokr_norm": null}, "backends": [{"id": "photos", "crop": false, "role": "train", "masks": null, "repeats": 0, "mask_kind": null, "crop_style": "center", "crop_aspect": "square", "resolution_px": 256, "instance_prompt": null, "caption_strategy": "textfile", "is_regularisation": false, "maximum_image_size_px": null, "minimum_image_size_px": 0, "aspect_bucket_rounding": 2, "target_downsample_size_px": null}], "schedule": {"end": 0.0, "name": "constant_with_warmup", "power": 1.0, "period_steps": null, "warmup_steps": 0}, "objective": {"loss": "l2", "shift": 3.0, "sigma": {"name": "sigmoid", "order": "random", "values": [], "beta_beta": 2.0, "beta_alpha": 2.0, "sigmoid_scale": 1.0}, "huber_c": 0.1, "auto_shift": false, "pad_compat": false, "balance_weight": 0.0, "huber_schedule": "snr", "masked_loss_probability": 1.0}, "optimizer": {"eps": 0.00000001, "name": "optimi-lion", "betas": [0.9, 0.99], "weight_decay": 0.0, "learning_rate": 0.0001}, "precision": {"base": "no_change", "compute": "bf16", "text_encoder_1": "no_change", "text_encoder_2": "no_change", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "model_type": "lokr", "world_size": 1, "max_train_steps": 10, "micro_batch_size": 4, "accumulation_steps": 1, "caption_dropout_probability": 0.1}, "operation": {"publication": {"hub_model_id": "ada/dream"}, "checkpoints_total_limit": 2}}', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '[]', 'hidream-tiny', '{"photos": "ds_01a222e5d6f87d1b889d154c95a698a8"}', '{"version": 1}', '{}', 'cpu', 0, 'pausing', 'provisioning', NULL, 3, 3, 1, 'wrk_01a222e5d6ff797db0aa9a3e45445afb', '2026-11-28 16:04:37.857631+00', NULL, NULL, NULL, 0, 0, 100, 0, NULL, NULL, NULL, NULL, '2026-11-28 16:03:37.851221+00', '2026-11-28 16:03:37.857631+00', '2026-11-28 16:03:37.857631+00', NULL);
INSERT INTO public.runs VALUES ('run_01a222e5d7077a989696e8787eb42f33', 'ten_01a222e5d65d7fbd9d32889820df981c', '{"config": {"note": "ünï ⚘ 1e-4", "model_type": "lora"}, "datasets": {}}', '{"version": 1, "deferred": {}, "identity": {"ema": null, "base": {"name": "hidream-tiny", "digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}, "clip": {"limit": 2.0, "method": "value"}, "seed": 42, "adapter": {"kind": "lokr", "factor": 4, "modules": [{"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}], "linear_dim": 4, "multiplier": 1.0, "use_scalar": false, "full_matrix": true, "linear_alpha": 1.0, "decompose_both": false, "init_lokr_norm": null}, "backends": [{"id": "photos", "crop": false, "role": "train", "masks": null, "repeats": 0, "mask_kind": null, "crop_style": "center", "crop_aspect": "square", "resolution_px": 256, "instance_prompt": null, "caption_strategy": "textfile", "is_regularisation": false, "maximum_image_size_px": null, "minimum_image_size_px": 0, "aspect_bucket_rounding": 2, "target_downsample_size_px": null}], "schedule": {"end": 0.0, "name": "constant_with_warmup", "power": 1.0, "period_steps": null, "warmup_steps": 0}, "objective": {"loss": "l2", "shift": 3.0, "sigma": {"name": "sigmoid", "order": "random", "values": [], "beta_beta": 2.0, "beta_alpha": 2.0, "sigmoid_scale": 1.0}, "huber_c": 0.1, "auto_shift": false, "pad_compat": false, "balance_weight": 0.0, "huber_schedule": "snr", "masked_loss_probability": 1.0}, "optimizer": {"eps": 0.00000001, "name": "optimi-lion", "betas": [0.9, 0.99], "weight_decay": 0.0, "learning_rate": 0.0001}, "precision": {"base": "no_change", "compute": "bf16", "text_encoder_1": "no_change", "text_encoder_2": "no_change", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "model_type": "lokr", "world_size": 1, "max_train_steps": 10, "micro_batch_size": 4, "accumulation_steps": 1, "caption_dropout_probability": 0.1}, "operation": {"publication": {"hub_model_id": "ada/dream"}, "checkpoints_total_limit": 2}}', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '[]', 'hidream-tiny', '{"photos": "ds_01a222e5d70476e3880f14c8a57588a2"}', '{"version": 1}', '{}', 'cpu', 0, 'paused', NULL, NULL, 4, 4, 1, NULL, NULL, NULL, NULL, '2026-11-28 16:23:37.874395+00', 0, 0, 100, 0, NULL, NULL, NULL, NULL, '2026-11-28 16:03:37.86377+00', '2026-11-28 16:03:37.875204+00', '2026-11-28 16:03:37.871211+00', NULL);
INSERT INTO public.runs VALUES ('run_01a222e5d71b73ca9e0db55092a2b07e', 'ten_01a222e5d65d7fbd9d32889820df981c', '{"config": {"note": "ünï ⚘ 1e-4", "model_type": "lora"}, "datasets": {}}', '{"version": 1, "deferred": {}, "identity": {"ema": null, "base": {"name": "hidream-tiny", "digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}, "clip": {"limit": 2.0, "method": "value"}, "seed": 42, "adapter": {"kind": "lokr", "factor": 4, "modules": [{"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}], "linear_dim": 4, "multiplier": 1.0, "use_scalar": false, "full_matrix": true, "linear_alpha": 1.0, "decompose_both": false, "init_lokr_norm": null}, "backends": [{"id": "photos", "crop": false, "role": "train", "masks": null, "repeats": 0, "mask_kind": null, "crop_style": "center", "crop_aspect": "square", "resolution_px": 256, "instance_prompt": null, "caption_strategy": "textfile", "is_regularisation": false, "maximum_image_size_px": null, "minimum_image_size_px": 0, "aspect_bucket_rounding": 2, "target_downsample_size_px": null}], "schedule": {"end": 0.0, "name": "constant_with_warmup", "power": 1.0, "period_steps": null, "warmup_steps": 0}, "objective": {"loss": "l2", "shift": 3.0, "sigma": {"name": "sigmoid", "order": "random", "values": [], "beta_beta": 2.0, "beta_alpha": 2.0, "sigmoid_scale": 1.0}, "huber_c": 0.1, "auto_shift": false, "pad_compat": false, "balance_weight": 0.0, "huber_schedule": "snr", "masked_loss_probability": 1.0}, "optimizer": {"eps": 0.00000001, "name": "optimi-lion", "betas": [0.9, 0.99], "weight_decay": 0.0, "learning_rate": 0.0001}, "precision": {"base": "no_change", "compute": "bf16", "text_encoder_1": "no_change", "text_encoder_2": "no_change", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "model_type": "lokr", "world_size": 1, "max_train_steps": 10, "micro_batch_size": 4, "accumulation_steps": 1, "caption_dropout_probability": 0.1}, "operation": {"device": "auto", "data_dirs": {}, "report_to": [], "ema_device": "cpu", "output_dir": null, "zero_stage": null, "publication": {"private": true, "hub_model_id": null}, "resume_from": "latest", "sample_seed": 42, "quantize_via": "accelerator", "sample_steps": 30, "sample_prompt": "", "sample_guidance": 5.0, "sample_width_px": 256, "sample_height_px": 256, "tracker_run_name": "", "tracker_project_name": "reverie", "text_encoder_4_source": null, "gradient_checkpointing": true, "sample_negative_prompt": "", "checkpoints_total_limit": 5, "checkpoint_step_interval": 500, "gradient_checkpointing_interval": 1}}', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '[]', 'hidream-tiny', '{"photos": "ds_01a222e5d7167661a140a61169608538"}', NULL, '{}', 'cpu', 0, 'queued', 'admission', NULL, 1, 1, 0, NULL, NULL, NULL, '2026-11-28 16:03:37.88391+00', NULL, 0, 0, 100, 0, NULL, NULL, NULL, NULL, '2026-11-28 16:03:37.88391+00', '2026-11-28 16:03:37.88391+00', NULL, NULL);
INSERT INTO public.runs VALUES ('run_01a222e5d7207728ad4c0352d4b79a3b', 'ten_01a222e5d65d7fbd9d32889820df981c', '{"config": {"note": "ünï ⚘ 1e-4", "model_type": "lora"}, "datasets": {}}', '{"version": 1, "deferred": {}, "identity": {"ema": null, "base": {"name": "hidream-tiny", "digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}, "clip": {"limit": 2.0, "method": "value"}, "seed": 42, "adapter": {"kind": "lokr", "factor": 4, "modules": [{"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}], "linear_dim": 4, "multiplier": 1.0, "use_scalar": false, "full_matrix": true, "linear_alpha": 1.0, "decompose_both": false, "init_lokr_norm": null}, "backends": [{"id": "photos", "crop": false, "role": "train", "masks": null, "repeats": 0, "mask_kind": null, "crop_style": "center", "crop_aspect": "square", "resolution_px": 256, "instance_prompt": null, "caption_strategy": "textfile", "is_regularisation": false, "maximum_image_size_px": null, "minimum_image_size_px": 0, "aspect_bucket_rounding": 2, "target_downsample_size_px": null}], "schedule": {"end": 0.0, "name": "constant_with_warmup", "power": 1.0, "period_steps": null, "warmup_steps": 0}, "objective": {"loss": "l2", "shift": 3.0, "sigma": {"name": "sigmoid", "order": "random", "values": [], "beta_beta": 2.0, "beta_alpha": 2.0, "sigmoid_scale": 1.0}, "huber_c": 0.1, "auto_shift": false, "pad_compat": false, "balance_weight": 0.0, "huber_schedule": "snr", "masked_loss_probability": 1.0}, "optimizer": {"eps": 0.00000001, "name": "optimi-lion", "betas": [0.9, 0.99], "weight_decay": 0.0, "learning_rate": 0.0001}, "precision": {"base": "no_change", "compute": "bf16", "text_encoder_1": "no_change", "text_encoder_2": "no_change", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "model_type": "lokr", "world_size": 1, "max_train_steps": 10, "micro_batch_size": 4, "accumulation_steps": 1, "caption_dropout_probability": 0.1}, "operation": {"device": "auto", "data_dirs": {}, "report_to": [], "ema_device": "cpu", "output_dir": null, "zero_stage": null, "publication": {"private": true, "hub_model_id": null}, "resume_from": "latest", "sample_seed": 42, "quantize_via": "accelerator", "sample_steps": 30, "sample_prompt": "", "sample_guidance": 5.0, "sample_width_px": 256, "sample_height_px": 256, "tracker_run_name": "", "tracker_project_name": "reverie", "text_encoder_4_source": null, "gradient_checkpointing": true, "sample_negative_prompt": "", "checkpoints_total_limit": 5, "checkpoint_step_interval": 500, "gradient_checkpointing_interval": 1}}', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '[]', 'hidream-tiny', '{"photos": "ds_01a222e5d71e7ae0a818c47c3e2c1a99"}', NULL, '{}', 'cpu', 0, 'queued', 'admission', NULL, 1, 1, 0, NULL, NULL, NULL, '2026-11-28 16:03:37.889116+00', NULL, 0, 0, 100, 0, NULL, NULL, NULL, NULL, '2026-11-28 16:03:37.889116+00', '2026-11-28 16:03:37.889116+00', NULL, NULL);
INSERT INTO public.runs VALUES ('run_01a222e5d7267fca96916a2def78dc36', 'ten_01a222e5d72272c98ebb676f19930de9', '{"config": {}}', '{"version": 1, "deferred": {}, "identity": {"ema": null, "base": {"name": "hidream-tiny", "digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}, "clip": {"limit": 2.0, "method": "value"}, "seed": 42, "adapter": {"kind": "lokr", "factor": 4, "modules": [{"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_q_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_k_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_v_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "double_stream_blocks.0.block.attn1.to_out_t", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.0.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_q", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_k", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_v", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}, {"dim": 4, "path": "single_stream_blocks.1.block.attn1.to_out", "alpha": 1.0, "factor": 4, "use_scalar": false, "full_matrix": true, "decompose_both": false}], "linear_dim": 4, "multiplier": 1.0, "use_scalar": false, "full_matrix": true, "linear_alpha": 1.0, "decompose_both": false, "init_lokr_norm": null}, "backends": [{"id": "photos", "crop": false, "role": "train", "masks": null, "repeats": 0, "mask_kind": null, "crop_style": "center", "crop_aspect": "square", "resolution_px": 256, "instance_prompt": null, "caption_strategy": "textfile", "is_regularisation": false, "maximum_image_size_px": null, "minimum_image_size_px": 0, "aspect_bucket_rounding": 2, "target_downsample_size_px": null}], "schedule": {"end": 0.0, "name": "constant_with_warmup", "power": 1.0, "period_steps": null, "warmup_steps": 0}, "objective": {"loss": "l2", "shift": 3.0, "sigma": {"name": "sigmoid", "order": "random", "values": [], "beta_beta": 2.0, "beta_alpha": 2.0, "sigmoid_scale": 1.0}, "huber_c": 0.1, "auto_shift": false, "pad_compat": false, "balance_weight": 0.0, "huber_schedule": "snr", "masked_loss_probability": 1.0}, "optimizer": {"eps": 0.00000001, "name": "optimi-lion", "betas": [0.9, 0.99], "weight_decay": 0.0, "learning_rate": 0.0001}, "precision": {"base": "no_change", "compute": "bf16", "text_encoder_1": "no_change", "text_encoder_2": "no_change", "text_encoder_3": "no_change", "text_encoder_4": "no_change"}, "model_type": "lokr", "world_size": 1, "max_train_steps": 10, "micro_batch_size": 4, "accumulation_steps": 1, "caption_dropout_probability": 0.1}, "operation": {"publication": {"hub_model_id": null}, "checkpoints_total_limit": 2}}', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '[]', 'hidream-tiny', '{"photos": "ds_01a222e5d72473208504f9af8e7b3339"}', '{"version": 1}', '{}', 'cpu', 0, 'queued', 'capacity', NULL, 3, 3, 0, NULL, NULL, NULL, NULL, NULL, 0, 0, 100, 0, NULL, NULL, NULL, NULL, '2026-11-28 16:03:37.894861+00', '2026-11-28 16:03:37.900848+00', NULL, NULL);


--
-- Data for Name: tenants; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.tenants VALUES ('ten_01a222e5d65d7fbd9d32889820df981c', 'ada', '2026-11-28 16:03:37.693875+00');
INSERT INTO public.tenants VALUES ('ten_01a222e5d72272c98ebb676f19930de9', 'ada', '2026-11-28 16:03:37.890544+00');


--
-- Data for Name: workers; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.workers VALUES ('wrk_01a222e5d6a27e77ac4ec0545bcca66c', 'trainer', 'cpu', '0', false, 'run_01a222e5d6987405ab0cd52ee6eb35e0', '2026-11-28 16:03:37.763234+00', '2026-11-28 16:03:37.763234+00');
INSERT INTO public.workers VALUES ('wrk_01a222e5d6b879379bd32183e0d51ef7', 'trainer', 'cpu', '0', false, NULL, '2026-11-28 16:03:37.784974+00', '2026-11-28 16:03:37.784974+00');
INSERT INTO public.workers VALUES ('wrk_01a222e5d6cc77da97905680bec30448', 'trainer', 'cpu', '0', false, NULL, '2026-11-28 16:03:37.80458+00', '2026-11-28 16:03:37.80458+00');
INSERT INTO public.workers VALUES ('wrk_01a222e5d6da798b99529d7c550f5e5e', 'trainer', 'cpu', '0', false, NULL, '2026-11-28 16:03:37.81892+00', '2026-11-28 16:03:37.81892+00');
INSERT INTO public.workers VALUES ('wrk_01a222e5d6e8716ab016bbd43c3c439a', 'trainer', 'cpu', '0', false, 'run_01a222e5d6e379ecb5407e75a42c0322', '2026-11-28 16:03:37.833285+00', '2026-11-28 16:03:37.833285+00');
INSERT INTO public.workers VALUES ('wrk_01a222e5d6ff797db0aa9a3e45445afb', 'trainer', 'cpu', '0', false, 'run_01a222e5d6fa745b8405d8100114aba6', '2026-11-28 16:03:37.85645+00', '2026-11-28 16:03:37.85645+00');
INSERT INTO public.workers VALUES ('wrk_01a222e5d70d7ab586af23eaab3f3430', 'trainer', 'cpu', '0', false, NULL, '2026-11-28 16:03:37.870313+00', '2026-11-28 16:03:37.870313+00');


--
-- Name: alembic_version alembic_version_pkc; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);


--
-- Name: api_keys api_keys_key_sha256_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_key_sha256_key UNIQUE (key_sha256);


--
-- Name: api_keys api_keys_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (key_id);


--
-- Name: attempts attempts_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (attempt_id);


--
-- Name: attempts attempts_run_id_fence_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_run_id_fence_key UNIQUE (run_id, fence);


--
-- Name: cache_shards cache_shards_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.cache_shards
    ADD CONSTRAINT cache_shards_pkey PRIMARY KEY (tenant_id, digest);


--
-- Name: checkpoints checkpoints_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.checkpoints
    ADD CONSTRAINT checkpoints_pkey PRIMARY KEY (run_id, step);


--
-- Name: dataset_files dataset_files_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.dataset_files
    ADD CONSTRAINT dataset_files_pkey PRIMARY KEY (dataset_id, path);


--
-- Name: datasets datasets_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.datasets
    ADD CONSTRAINT datasets_pkey PRIMARY KEY (dataset_id);


--
-- Name: events events_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (run_id, seq);


--
-- Name: idempotency_keys idempotency_keys_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (tenant_id, method, path, key);


--
-- Name: publications publications_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.publications
    ADD CONSTRAINT publications_pkey PRIMARY KEY (publication_id);


--
-- Name: run_shards run_shards_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.run_shards
    ADD CONSTRAINT run_shards_pkey PRIMARY KEY (run_id, digest);


--
-- Name: runs runs_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (run_id);


--
-- Name: tenants tenants_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.tenants
    ADD CONSTRAINT tenants_pkey PRIMARY KEY (tenant_id);


--
-- Name: workers workers_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (worker_id);


--
-- Name: cache_shards_to_ring; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX cache_shards_to_ring ON public.cache_shards USING btree (ring_after) WHERE (ring_after IS NOT NULL);


--
-- Name: datasets_of_tenant; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX datasets_of_tenant ON public.datasets USING btree (tenant_id, dataset_id);


--
-- Name: datasets_to_ring; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX datasets_to_ring ON public.datasets USING btree (ring_after) WHERE (ring_after IS NOT NULL);


--
-- Name: publications_of_run; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX publications_of_run ON public.publications USING btree (tenant_id, run_id);


--
-- Name: publications_to_ring; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX publications_to_ring ON public.publications USING btree (ring_after) WHERE (ring_after IS NOT NULL);


--
-- Name: run_shards_of_shard; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX run_shards_of_shard ON public.run_shards USING btree (tenant_id, digest);


--
-- Name: runs_caching; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX runs_caching ON public.runs USING btree (run_id) WHERE ((status = 'running'::text) AND (stage = 'caching'::text));


--
-- Name: runs_held; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX runs_held ON public.runs USING btree (lease_until) WHERE (lease_until IS NOT NULL);


--
-- Name: runs_of_tenant; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX runs_of_tenant ON public.runs USING btree (tenant_id, run_id);


--
-- Name: runs_to_ring; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX runs_to_ring ON public.runs USING btree (ring_after) WHERE (ring_after IS NOT NULL);


--
-- Name: runs_to_sweep; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX runs_to_sweep ON public.runs USING btree (sweep_after) WHERE (sweep_after IS NOT NULL);


--
-- Name: runs_waiting; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX runs_waiting ON public.runs USING btree (gpu_class, priority DESC, run_id) WHERE ((status = 'queued'::text) AND (stage = 'capacity'::text));


--
-- Name: api_keys api_keys_tenant_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(tenant_id);


--
-- Name: attempts attempts_run_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.runs(run_id);


--
-- Name: attempts attempts_tenant_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(tenant_id);


--
-- Name: cache_shards cache_shards_tenant_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.cache_shards
    ADD CONSTRAINT cache_shards_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(tenant_id);


--
-- Name: checkpoints checkpoints_run_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.checkpoints
    ADD CONSTRAINT checkpoints_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.runs(run_id);


--
-- Name: checkpoints checkpoints_tenant_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.checkpoints
    ADD CONSTRAINT checkpoints_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(tenant_id);


--
-- Name: dataset_files dataset_files_dataset_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.dataset_files
    ADD CONSTRAINT dataset_files_dataset_id_fkey FOREIGN KEY (dataset_id) REFERENCES public.datasets(dataset_id);


--
-- Name: dataset_files dataset_files_tenant_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.dataset_files
    ADD CONSTRAINT dataset_files_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(tenant_id);


--
-- Name: datasets datasets_tenant_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.datasets
    ADD CONSTRAINT datasets_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(tenant_id);


--
-- Name: events events_run_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.runs(run_id);


--
-- Name: events events_tenant_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(tenant_id);


--
-- Name: idempotency_keys idempotency_keys_tenant_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.idempotency_keys
    ADD CONSTRAINT idempotency_keys_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(tenant_id);


--
-- Name: publications publications_run_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.publications
    ADD CONSTRAINT publications_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.runs(run_id);


--
-- Name: publications publications_tenant_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.publications
    ADD CONSTRAINT publications_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(tenant_id);


--
-- Name: run_shards run_shards_run_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.run_shards
    ADD CONSTRAINT run_shards_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.runs(run_id);


--
-- Name: run_shards run_shards_tenant_id_digest_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.run_shards
    ADD CONSTRAINT run_shards_tenant_id_digest_fkey FOREIGN KEY (tenant_id, digest) REFERENCES public.cache_shards(tenant_id, digest);


--
-- Name: runs runs_tenant_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.runs
    ADD CONSTRAINT runs_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(tenant_id);


--
-- PostgreSQL database dump complete
--


