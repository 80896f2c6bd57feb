{{- define "finetune-operator.uninstallName" -}}
{{- include "finetune-operator.fullname" . }}-uninstall
{{- end }}

{{- /* Not the operator's: neither its Service nor its network policy means the hook's pod. */}}
{{- define "finetune-operator.uninstallLabels" -}}
{{- $own := dict "app.kubernetes.io/component" "uninstall" }}
{{- toYaml (merge $own (include "finetune-operator.labels" . | fromYaml)) }}
{{- end }}

{{- /* Rights come before the Job and go whatever becomes of it; a Job that failed stays, with its log. */}}
{{- define "finetune-operator.uninstallRightsHook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: "-5"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{- /* The hook's roles: kind, name, namespace, and the template with the rules. */}}
{{- define "finetune-operator.uninstallRoles" -}}
{{- $name := include "finetune-operator.uninstallName" . }}
- {kind: Role, name: {{ $name }}-lease, namespace: {{ .Release.Namespace }}, rules: finetune-operator.leaseRules}
{{- range .Values.watchNamespaces }}
- {kind: Role, name: {{ $name }}, namespace: {{ . }}, rules: finetune-operator.uninstallRules}
{{- else }}
- {kind: ClusterRole, name: {{ $name }}, rules: finetune-operator.uninstallRules}
{{- end }}
{{- end }}
