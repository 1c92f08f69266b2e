{{/* Reference of an image, as the controller writes those of its configuration: a digest wins over the tag. */}}
{{- define "modelmesh.image" -}}
{{- if .digest }}{{ .name }}@{{ .digest }}{{ else if .tag }}{{ .name }}:{{ .tag }}{{ else }}{{ .name }}{{ end -}}
{{- end }}

{{/* The configuration as YAML: what is given, and the images and pull secrets that are not the defaults. */}}
{{- define "modelmesh.config" -}}
{{- $config := deepCopy .Values.config }}
{{- range $key, $image := dict "modelMeshImage" .Values.image "storageHelperImage" .Values.adapterImage }}
{{- $default := ternary "modelmesh:latest" "modelmesh-runtime-adapter:latest" (eq $key "modelMeshImage") }}
{{- if ne (include "modelmesh.image" $image) $default }}
{{- $config = mergeOverwrite (dict $key $image) $config }}
{{- end }}
{{- end }}
{{- if and .Values.imagePullSecrets (not (hasKey $config "imagePullSecrets")) }}
{{- $_ := set $config "imagePullSecrets" .Values.imagePullSecrets }}
{{- end }}
{{- if $config }}{{ toYaml $config }}{{ end -}}
{{- end }}

{{/* Names of the Secrets that the controller may read, as a JSON object with one list: from the etcd's name and the configuration. */}}
{{- define "modelmesh.secrets" -}}
{{- $names := list .Values.etcd.secretName (default "storage-config" .Values.config.storageSecretName) }}
{{- with .Values.config.tls }}{{ with .secretName }}{{ $names = append $names . }}{{ end }}{{ end }}
{{- dict "names" (uniq $names) | toJson }}
{{- end }}
