{{- /* The labels of an object of a component. */ -}}
{{- define "sundew.labels" -}}
{{ include "sundew.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- /* The labels by which the pods of a component are found. */ -}}
{{- define "sundew.selector" -}}
app.kubernetes.io/name: sundew
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* The image of brokers and nodes. */ -}}
{{- define "sundew.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* The domain of the services of this namespace. */ -}}
{{- define "sundew.domain" -}}
{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{- /* The host of a node of Redis, without its number, and what follows the number. */ -}}
{{- define "sundew.redis.domain" -}}
{{ .Release.Name }}-redis.{{ include "sundew.domain" . }}
{{- end }}

{{- /* Where the brokers find their store. */ -}}
{{- define "sundew.store" -}}
{{- if .Values.redis.enabled -}}
{{- $domain := include "sundew.redis.domain" . -}}
{{- $release := .Release.Name -}}
{{- $nodes := list -}}
{{- range until 3 -}}
{{- $nodes = append $nodes (printf "%s-redis-%d.%s:26379" $release . $domain) -}}
{{- end -}}
rediss+sentinel://sundew@{{ join "," $nodes }}/main
{{- else -}}
{{ required "redis.url: with redis.enabled=false, the URL of a Redis is needed" .Values.redis.url }}
{{- end -}}
{{- end }}

{{- /* What no container of this chart needs. */ -}}
{{- define "sundew.container" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: ["ALL"] }
{{- end }}

{{- /* Pods of a component apart from each other. */ -}}
{{- define "sundew.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: {{ .spread }}
  labelSelector:
    matchLabels:
      {{- include "sundew.selector" . | nindent 6 }}
- maxSkew: 1
  topologyKey: topology.kubernetes.io/zone
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "sundew.selector" . | nindent 6 }}
{{- end }}
