{{- /* What several templates use. A helper takes the root context (`.`), except where it says otherwise. */ -}}

{{- /* The chart's name, in labels. */ -}}
{{- define "openexec.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* What all names begin with: short enough for the longest suffix. */ -}}
{{- define "openexec.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The labels of every object. */ -}}
{{- define "openexec.labels" -}}
app.kubernetes.io/name: {{ include "openexec.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* By which a component's pods are found; they never change. Takes a list: the root context, and the component. */ -}}
{{- define "openexec.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "openexec.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- /* The labels of a component's objects. Takes a list: the root context, and the component. */ -}}
{{- define "openexec.componentLabels" -}}
{{ include "openexec.labels" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- /* The labels of a component's pods: none that changes with the chart's version, which would restart them. Takes a list: the
root context, the component, and more labels. */ -}}
{{- define "openexec.podLabels" -}}
{{- $root := index . 0 -}}
{{- include "openexec.selectorLabels" (list $root (index . 1)) -}}
{{- range list $root.Values.commonLabels (index . 2) }}
{{- with . }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* The image: by digest, or by tag where that was asked for. The schema lets exactly one of them through. */ -}}
{{- define "openexec.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The account of all pods. */ -}}
{{- define "openexec.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "openexec.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* Of every pod. */ -}}
{{- define "openexec.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- /* Of every container. */ -}}
{{- define "openexec.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* Of every server: a start that may take long, and a restart only where nothing answers. */ -}}
{{- define "openexec.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end -}}

{{- /* Where a pod runs. Takes a list: the root context, the component, and its values. */ -}}
{{- define "openexec.placement" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- with index . 2 -}}
{{- with .topologySpreadConstraints -}}
topologySpreadConstraints:
  {{- range . }}
  - labelSelector:
      matchLabels:
        {{- include "openexec.selectorLabels" (list $root $component) | nindent 8 }}
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}
{{- end -}}

{{- /* A value of a Secret of this release from before, in base64; empty where there is none. Takes a list: the root
context, the Secret's name, the key. */ -}}
{{- define "openexec.kept" -}}
{{- $root := index . 0 -}}
{{- $found := lookup "v1" "Secret" $root.Release.Namespace (index . 1) | default dict -}}
{{- get (get $found "data" | default dict) (index . 2) -}}
{{- end -}}

{{- /* Ends the rendering where a Secret would be generated and must not be. Takes a list: the root context, the value that
asks for it, and what to do instead. */ -}}
{{- define "openexec.mayGenerate" -}}
{{- if not (index . 0).Values.generateSecrets -}}
{{- fail (printf "%s is `generated`, and generateSecrets is false: %s" (index . 1) (index . 2)) -}}
{{- end -}}
{{- end -}}

{{- /* Rules of a NetworkPolicy. Takes a list of {port, from}. An empty `from` is no rule: in a rule it would mean everybody. */ -}}
{{- define "openexec.ingress" -}}
{{- $rules := list -}}
{{- range . -}}
{{- if .from -}}
{{- $rules = append $rules (dict "from" .from "ports" (list (dict "protocol" "TCP" "port" .port))) -}}
{{- end -}}
{{- end -}}
ingress:
  {{- toYaml $rules | nindent 2 }}
{{- end -}}
