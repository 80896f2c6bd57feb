{{- /* The operator's settings, for the Deployment and for the pre-delete hook. */}}
{{- define "finetune-operator.environment" -}}
{{- $fullname := include "finetune-operator.fullname" . -}}
- name: FINETUNE_OPERATOR_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: FINETUNE_POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: FINETUNE_WATCH_NAMESPACES
  value: {{ join "," .Values.watchNamespaces | quote }}
- name: FINETUNE_LEASE_NAME
  value: {{ $fullname | quote }}
- name: FINETUNE_LEASE_SECONDS
  value: {{ .Values.lease.durationSeconds | quote }}
- name: FINETUNE_TRAINER_IMAGE
  value: {{ include "finetune-operator.image" (dict "image" .Values.trainer.image "root" .) | quote }}
- name: FINETUNE_PREPARE_IMAGE
  value: {{ include "finetune-operator.image" (dict "image" .Values.trainer.prepareImage "root" .) | quote }}
- name: FINETUNE_IMAGE_PULL_POLICY
  value: {{ .Values.trainer.pullPolicy }}
- name: FINETUNE_IMAGE_PULL_SECRETS
  value: {{ join "," .Values.trainer.imagePullSecrets | quote }}
- name: FINETUNE_TRAINER_SERVICE_ACCOUNT
  value: {{ .Values.trainer.serviceAccountName | quote }}
- name: FINETUNE_TRUST_REMOTE_CODE
  value: {{ .Values.trainer.trustRemoteCode | quote }}
- name: FINETUNE_HUB_ENVIRONMENT
  value: {{ toJson .Values.trainer.hub.env | quote }}
- name: FINETUNE_HUB_CA_CONFIG_MAP
  value: {{ .Values.trainer.hub.caBundle.configMapName | quote }}
- name: FINETUNE_HUB_CA_KEY
  value: {{ .Values.trainer.hub.caBundle.key | quote }}
- name: FINETUNE_PASS_THROUGH_LABELS
  value: {{ join "," .Values.passThrough.labels | quote }}
- name: FINETUNE_PASS_THROUGH_ANNOTATIONS
  value: {{ join "," .Values.passThrough.annotations | quote }}
- name: FINETUNE_DEFAULT_STORE
  value: {{ if .Values.defaultStore.uri }}{{ toJson .Values.defaultStore | quote }}{{ else }}""{{ end }}
- name: FINETUNE_PROGRESS_SERVICE_URL
  value: {{ printf "https://%s.%s.svc:%v" $fullname .Release.Namespace .Values.progress.port | quote }}
- name: FINETUNE_PROGRESS_PORT
  value: {{ .Values.progress.port | quote }}
- name: FINETUNE_PROGRESS_INTERVAL_SECONDS
  value: {{ .Values.progress.minIntervalSeconds | quote }}
- name: FINETUNE_PROGRESS_AUTH
  value: {{ include "finetune-operator.progressAuthentication" . | quote }}
- name: FINETUNE_PROGRESS_KEYS_PATH
  value: {{ ternary "/etc/finetune-operator/keys/keys.json" "" (not (empty .Values.progress.keysConfigMap)) | quote }}
- name: FINETUNE_PROGRESS_ISSUER
  value: {{ .Values.progress.issuer | quote }}
- name: FINETUNE_HEALTH_PORT
  value: {{ .Values.health.port | quote }}
- name: FINETUNE_CERTIFICATE_SECRET
  value: {{ include "finetune-operator.certificateSecretName" . | quote }}
- name: FINETUNE_CA_CONFIG_MAP
  value: {{ .Values.progress.caConfigMapName | quote }}
- name: FINETUNE_LOG_FORMAT
  value: {{ .Values.log.format | quote }}
- name: FINETUNE_LOG_LEVEL
  value: {{ .Values.log.level | quote }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
