{{- define "openexec.gateway.name" -}}
{{ include "openexec.fullname" . }}-gateway
{{- end -}}

{{- /* Whether the file of the ledger may be made now. */ -}}
{{- define "openexec.gateway.create" -}}
{{- if eq .Values.ledger.type "postgresql" -}}
{{- /* The hook makes the tables, with a role of its own perhaps. */ -}}
{{ not .Values.ledger.postgresql.migrate.enabled }}
{{- else -}}
{{- $create := .Values.ledger.sqlite.create -}}
{{ or (eq $create "always") (and (eq $create "install") .Release.IsInstall) }}
{{- end -}}
{{- end -}}

{{- /* openexec.yaml: gateway.config, and what the chart sets. */ -}}
{{- define "openexec.gateway.config" -}}
{{- $config := deepCopy .Values.gateway.config -}}
{{- $create := include "openexec.gateway.create" . | eq "true" -}}
{{- $_ := set $config "ledger" (merge (dict "create" $create) (get $config "ledger" | default dict)) -}}
{{- with .Values.gateway.shutdown -}}
{{- $_ := set $config "shutdown" (dict "delay" (printf "%ds" (int .delaySeconds)) "timeout" (printf "%ds" (int .timeoutSeconds))) -}}
{{- end -}}
{{- with .Values.gateway.tls -}}
{{- if .secret -}}
{{- $tls := dict "certificate" "/etc/openexec/tls/tls.crt" "key" "/etc/openexec/tls/tls.key" -}}
{{- if .clientCa -}}
{{- $_ := set $tls "client_ca" "/etc/openexec/tls/ca.crt" -}}
{{- with .clientNames }}{{ $_ := set $tls "client_names" . }}{{ end -}}
{{- end -}}
{{- $address := printf "%s:5000" $.Values.gateway.listenHost -}}
{{- $_ := set $config "listen" (list (dict "address" $address "tls" $tls)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- /* The Secret with the approvals' key; empty: none. */ -}}
{{- define "openexec.gateway.keysSecret" -}}
{{- with .Values.gateway.keys -}}
{{- if eq .source "existing" }}{{ .secret }}{{ else if eq .source "generated" }}{{ include "openexec.gateway.name" $ }}-keys{{ end -}}
{{- end -}}
{{- end -}}

{{- /* The Secret with the token of the admin port; empty: none. */ -}}
{{- define "openexec.gateway.adminSecret" -}}
{{- with .Values.gateway.adminToken -}}
{{- if eq .source "existing" }}{{ .secret }}{{ else if eq .source "generated" }}{{ include "openexec.gateway.name" $ }}-admin{{ end -}}
{{- end -}}
{{- end -}}

{{- /* Of the Deployment and of the StatefulSet. */ -}}
{{- define "openexec.gateway.podTemplate" -}}
{{- $gateway := .Values.gateway -}}
{{- $isPostgres := eq .Values.ledger.type "postgresql" -}}
{{- $keys := and (eq $gateway.mode "clawshield") (include "openexec.gateway.keysSecret" .) -}}
{{- $admin := include "openexec.gateway.adminSecret" . -}}
metadata:
  labels:
    {{- include "openexec.podLabels" (list . "gateway" $gateway.podLabels) | nindent 4 }}
  annotations:
    kubectl.kubernetes.io/default-container: openexec
    # The server notices a new configuration by itself; what cannot change while it runs needs a new pod.
    checksum/config: {{ include "openexec.gateway.config" . | sha256sum }}
    {{- with $gateway.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "openexec.serviceAccountName" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # More than the stop takes: what is killed in the middle is an unknown outcome.
  terminationGracePeriodSeconds: {{ add $gateway.shutdown.delaySeconds $gateway.shutdown.timeoutSeconds 15 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- include "openexec.podSecurityContext" . | nindent 4 }}
  {{- with include "openexec.placement" (list . "gateway" $gateway) }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: openexec
      image: {{ include "openexec.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      ports:
        - {name: http, containerPort: 5000}
        - {name: admin, containerPort: 5001}
      env:
        - {name: OPENEXEC_CONFIG, value: /etc/openexec/config/openexec.yaml}
        - {name: OPENEXEC_MODE, value: {{ $gateway.mode }}}
        # Empty is as if it were not set: the image's own must not win over a listener with TLS, which the file has.
        - {name: OPENEXEC_LISTEN, value: {{ empty $gateway.tls.secret | ternary (printf "%s:5000" $gateway.listenHost) "" | quote }}}
        - {name: OPENEXEC_ADMIN_LISTEN, value: {{ printf "%s:5001" $gateway.listenHost | quote }}}
        - {name: OPENEXEC_LOG, value: {{ $gateway.logLevel | quote }}}
        - {name: OPENEXEC_LOG_FORMAT, value: json}
        {{- if $isPostgres }}
        {{- include "openexec.gateway.database" (list .Values.ledger.postgresql.password) | nindent 8 }}
        {{- else }}
        - {name: OPENEXEC_DB_URL, value: "sqlite:////var/lib/openexec/openexec.db"}
        {{- end }}
        {{- if $keys }}
        - {name: CLAWSHIELD_TENANT_ID, value: {{ $gateway.keys.tenant | quote }}}
        {{- if eq $gateway.keys.form "ed25519" }}
        - {name: CLAWSHIELD_PUBLIC_KEY_FILE, value: /etc/openexec/keys/public-key.pem}
        {{- else }}
        - {name: CLAWSHIELD_SECRET_KEY_FILE, value: /etc/openexec/keys/secret-key}
        {{- end }}
        {{- end }}
        {{- if $admin }}
        - {name: OPENEXEC_ADMIN_TOKEN_FILE, value: /etc/openexec/admin/token}
        {{- if $gateway.adminToken.readToken }}
        - {name: OPENEXEC_ADMIN_READ_TOKEN_FILE, value: /etc/openexec/admin/read-token}
        {{- end }}
        {{- end }}
        {{- with $gateway.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- include "openexec.probes" . | nindent 6 }}
      resources:
        {{- toYaml $gateway.resources | nindent 8 }}
      securityContext:
        {{- include "openexec.containerSecurityContext" . | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/openexec/config, readOnly: true}
        {{- if $isPostgres }}
        - {name: ledger, mountPath: /etc/openexec/ledger, readOnly: true}
        {{- else }}
        - {name: data, mountPath: /var/lib/openexec}
        {{- end }}
        {{- if $keys }}
        - {name: keys, mountPath: /etc/openexec/keys, readOnly: true}
        {{- end }}
        {{- if $admin }}
        - {name: admin, mountPath: /etc/openexec/admin, readOnly: true}
        {{- end }}
        {{- if $gateway.tls.secret }}
        - {name: tls, mountPath: /etc/openexec/tls, readOnly: true}
        {{- end }}
        {{- with include "openexec.gateway.secretMounts" . | trim }}
        {{- . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "openexec.gateway.name" . }}}
    {{- if $isPostgres }}
    - name: ledger
      secret: {secretName: {{ .Values.ledger.postgresql.secret }}, defaultMode: 0440}
    {{- end }}
    {{- with $keys }}
    - name: keys
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
    {{- with $admin }}
    - name: admin
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
    {{- with $gateway.tls.secret }}
    - name: tls
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
    {{- with include "openexec.gateway.secretVolumes" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- /* How PostgreSQL is found. Takes a list: whether the Secret has a password. */ -}}
{{- define "openexec.gateway.database" -}}
- {name: OPENEXEC_DB_URL_FILE, value: /etc/openexec/ledger/url}
{{- if index . 0 }}
- {name: OPENEXEC_DB_PASSWORD_FILE, value: /etc/openexec/ledger/password}
{{- end }}
{{- end -}}

{{- define "openexec.gateway.secretMounts" -}}
{{- range $index, $name := .Values.gateway.secretMounts -}}
- {name: secret-{{ $index }}, mountPath: /etc/openexec/secrets/{{ $name }}, readOnly: true}
{{ end -}}
{{- end -}}

{{- define "openexec.gateway.secretVolumes" -}}
{{- range $index, $name := .Values.gateway.secretMounts -}}
- name: secret-{{ $index }}
  secret: {secretName: {{ $name }}, defaultMode: 0440}
{{ end -}}
{{- end -}}
