{{- define "finetune-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* `helm install finetune-operator …` gives `finetune-operator`, not the name twice. */}}
{{- define "finetune-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "finetune-operator.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "finetune-operator.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "finetune-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "finetune-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "finetune-operator.labels" -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service
  "app.kubernetes.io/part-of" "finetune-operator" }}
{{- $selector := include "finetune-operator.selectorLabels" . | fromYaml }}
{{- toYaml (merge $selector $own .Values.commonLabels) }}
{{- end }}

{{- define "finetune-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "finetune-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "finetune-operator.certificateSecretName" -}}
{{- include "finetune-operator.fullname" . }}-certificate
{{- end }}

{{- /* Takes a dict of image {repository, tag, digest} and root. */}}
{{- define "finetune-operator.image" -}}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else }}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) }}
{{- end }}
{{- end }}

{{- /* TokenReview needs a ClusterRole, which the namespaced mode does without. */}}
{{- define "finetune-operator.progressAuthentication" -}}
{{- default (ternary "Jwt" "TokenReview" (not (empty .Values.watchNamespaces))) .Values.progress.authentication }}
{{- end }}

{{- /* Whether the operator needs any right beyond namespaces: "true" or nothing. */}}
{{- define "finetune-operator.needsClusterRole" -}}
{{- if or (not .Values.watchNamespaces) (eq (include "finetune-operator.progressAuthentication" .) "TokenReview") }}true{{ end }}
{{- end }}
