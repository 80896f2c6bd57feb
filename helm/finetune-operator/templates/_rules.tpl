{{- /* What the operator does to FineTuneJobs and their children, where it watches. */}}
{{- define "finetune-operator.jobRules" -}}
# patch: the finalizer of deletionPolicy Delete. delete: ttlSecondsAfterFinished.
- apiGroups: [finetune.dev]
  resources: [finetunejobs]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [finetune.dev]
  resources: [finetunejobs/status]
  verbs: [update]
# Owner references with blockOwnerDeletion need it where OwnerReferencesPermissionEnforcement is on (OpenShift).
- apiGroups: [finetune.dev]
  resources: [finetunejobs/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [get, create, patch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create, list]
{{- if .Values.kueue.enabled }}
# Why a queued job waits.
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list]
{{- end }}
{{- end }}

{{- /* What the pre-delete hook does, where the operator watches. */}}
{{- define "finetune-operator.uninstallRules" -}}
- apiGroups: [finetune.dev]
  resources: [finetunejobs]
  verbs: [get, list, patch]
{{- end }}

{{- /* The Lease: taken by the operator, and from it by the pre-delete hook. */}}
{{- define "finetune-operator.leaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "finetune-operator.fullname" . }}]
  verbs: [get, update]
{{- end }}
