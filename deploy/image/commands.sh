#!/bin/sh
# The programs of the old adapter image, by their old names. commands.sh FOLDER MODELMESH
set -eu
folder=$1 modelmesh=$2
mkdir -p "$folder"
for server in mlserver triton ovms torchserve; do
    printf '#!/bin/sh\nexec %s adapter %s "$@"\n' "$modelmesh" "$server" > "$folder/$server-adapter"
done
printf '#!/bin/sh\nexec %s puller "$@"\n' "$modelmesh" > "$folder/puller"
chmod 755 "$folder/puller" "$folder"/*-adapter
