{{- define "reverie.labels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "reverie.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "reverie.image" -}}
{{- $image := index .root.Values.image .image -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* The environment of every process; the API gets no broker URL, because it does not use the broker. The pepper of API keys is
for those that check or make keys. */}}
{{- define "reverie.env" -}}
- { name: REVERIE_ENV, value: production }
- { name: REVERIE_LOG_FORMAT, value: json }
- { name: REVERIE_HOME, value: /home/reverie }
- { name: REVERIE_SCRATCH_DIR, value: /scratch }
- { name: REVERIE_MODELS_DIR, value: /models }
- { name: REVERIE_PUBLICATIONS_DIR, value: /publications }
- { name: REVERIE_API_URL, value: {{ .root.Values.api.url | quote }} }
- { name: REVERIE_OBJECTS_URL, value: {{ .root.Values.objects.url | quote }} }
- name: REVERIE_DATABASE_URL
  valueFrom: { secretKeyRef: { name: {{ .root.Values.secrets.database.name }}, key: {{ .root.Values.secrets.database.key }} } }
{{- if ne .component "api" }}
- name: REVERIE_BROKER_URL
  valueFrom: { secretKeyRef: { name: {{ .root.Values.secrets.broker.name }}, key: {{ .root.Values.secrets.broker.key }} } }
{{- end }}
{{- if has .component (list "api" "migrate") }}
- name: REVERIE_KEY_PEPPER
  valueFrom: { secretKeyRef: { name: {{ .root.Values.secrets.keys.name }}, key: {{ .root.Values.secrets.keys.key }} } }
{{- end }}
{{- with .root.Values.secrets.objects.name }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: { secretKeyRef: { name: {{ . }}, key: AWS_ACCESS_KEY_ID } }
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: { secretKeyRef: { name: {{ . }}, key: AWS_SECRET_ACCESS_KEY } }
{{- end }}
{{- with .root.Values.metrics.port }}
- { name: REVERIE_METRICS_PORT, value: {{ . | quote }} }
- { name: REVERIE_METRICS_HOST, value: 0.0.0.0 }
{{- end }}
{{- if and .root.Values.traces.endpoint (ne .component "migrate") }}
- { name: REVERIE_OTLP_ENDPOINT, value: {{ .root.Values.traces.endpoint | quote }} }
{{- with .root.Values.traces.headers }}
{{- if .name }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom: { secretKeyRef: { name: {{ .name }}, key: {{ .key }} } }
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $value := .root.Values.settings }}
- { name: {{ $name }}, value: {{ $value | quote }} }
{{- end }}
{{- end }}

{{/* The port on which Prometheus reads a process's metrics. */}}
{{- define "reverie.metricsPort" -}}
{{- with .Values.metrics.port }}
- { name: metrics, containerPort: {{ . }} }
{{- end }}
{{- end }}

{{/* For a Prometheus that finds its targets by annotations. */}}
{{- define "reverie.annotations" -}}
{{- if and .Values.metrics.port .Values.metrics.annotations }}
annotations:
  prometheus.io/scrape: "true"
  prometheus.io/port: {{ .Values.metrics.port | quote }}
{{- end }}
{{- end }}

{{/* What the restricted pod security standard asks of a pod, and no token of the cluster's API. */}}
{{- define "reverie.pod" -}}
automountServiceAccountToken: false
serviceAccountName: {{ .Release.Name }}-reverie
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: { type: RuntimeDefault }
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "reverie.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}
