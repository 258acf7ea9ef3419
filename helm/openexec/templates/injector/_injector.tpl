{{- define "openexec.injector.name" -}}
{{ include "openexec.fullname" . }}-injector
{{- end -}}

{{- /* injector.yaml. What is empty is left out: there is none. */ -}}
{{- define "openexec.injector.settings" -}}
{{- with .Values.injector -}}
listen: {{ printf "%s:8443" .listenHost | quote }}
admin: {listen: {{ printf "%s:5001" .listenHost | quote }}}
tls: {certificate: /etc/openexec/tls/tls.crt, key: /etc/openexec/tls/tls.key}
{{- with .sidecar }}
sidecar:
  image: {{ .image | default (include "openexec.image" $) | quote }}
  image_pull_policy: {{ .imagePullPolicy }}
  mode: {{ .mode }}
  sidecar: {{ .type }}
  traffic: {{ .traffic }}
  ports: {{ toJson .ports }}
  listen_host: {{ .listenHost | quote }}
  user: {{ int64 .user }}
  log_level: {{ .logLevel | quote }}
  resources: {{ toJson .resources }}
  {{- with .configMap }}
  config_map: {{ . }}
  {{- end }}
  {{- with .ledgerSecret }}
  ledger_secret: {{ . }}
  {{- end }}
  ledger_password: {{ .ledgerPassword }}
  {{- with .keysSecret }}
  keys_secret: {{ . }}
  {{- end }}
  {{- with .adminSecret }}
  admin_secret: {{ . }}
  {{- end }}
  {{- with .tenant }}
  tenant: {{ . | quote }}
  {{- end }}
  approval_form: {{ .approvalForm }}
  drain_wait: {{ .drainWait }}
{{- end }}
{{- end -}}
{{- end -}}

{{- /* The Secret with the webhook's certificate. */ -}}
{{- define "openexec.injector.tlsSecret" -}}
{{- if eq .Values.injector.tls.source "existing" -}}
{{ .Values.injector.tls.secret }}
{{- else -}}
{{ include "openexec.injector.name" . }}-tls
{{- end -}}
{{- end -}}

{{- /* One of the two webhooks. Takes a dict: root, label (of the namespace), path, caBundle, canOptOut. */ -}}
{{- define "openexec.injector.webhook" -}}
{{- $webhook := .root.Values.injector.webhook -}}
- name: {{ .label }}.inject.openexec.dev
  admissionReviewVersions: [v1]
  # No pod is made without an answer: a gate that is away must not be a way around it.
  failurePolicy: Fail
  # Also what comes in by another version of the API.
  matchPolicy: Equivalent
  # Once more when a later webhook changed the pod; twice is as once.
  reinvocationPolicy: IfNeeded
  # So that `kubectl apply --dry-run=server` works.
  sideEffects: None
  timeoutSeconds: {{ $webhook.timeoutSeconds }}
  clientConfig:
    service:
      name: {{ include "openexec.injector.name" .root }}
      namespace: {{ .root.Release.Namespace }}
      port: 443
      path: {{ .path }}
    {{- with .caBundle }}
    caBundle: {{ . }}
    {{- end }}
  rules:
    - apiGroups: [""]
      apiVersions: [v1]
      operations: [CREATE]
      resources: [pods]
      scope: Namespaced
  namespaceSelector:
    matchExpressions:
      - key: openexec.dev/inject
        operator: In
        values: [{{ .label }}]
      # Or nothing could be repaired while the injector is away.
      - key: kubernetes.io/metadata.name
        operator: NotIn
        values: {{ concat (list "kube-system" .root.Release.Namespace) $webhook.excludedNamespaces | uniq | toJson }}
  {{- if .canOptOut }}
  objectSelector:
    matchExpressions:
      - key: openexec.dev/inject
        operator: NotIn
        values: [disabled]
  {{- end }}
{{- end -}}
