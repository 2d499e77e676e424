#!/bin/sh
# embed.sh FILE... - prints the C file that carries these Lua files inside the program: see core/runtime_files.h.
# core/runtime/x.lua is named runtime/x.lua there, any other file by its path.
set -eu
printf '/* Written by tests/support/embed.sh; edit the Lua files. */\n#include "runtime_files.h"\n\n#include <stddef.h>\n'
n=0
for file in "$@"; do
    n=$((n + 1))
    # A question mark is escaped because C11 still reads trigraphs.
    printf '\nstatic const char text_%s[] =\n    ""\n' $n
    sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/?/\\?/g' -e 's/^/    "/' -e 's/$/\\n"/' "$file"
    printf '    ;\n'
done
printf '\nconst struct way_runtime_file way_runtime_files[] = {\n'
n=0
for file in "$@"; do
    n=$((n + 1))
    printf '    { "%s", text_%s, sizeof text_%s - 1 },\n' "${file#core/}" $n $n
done
printf '    { NULL, NULL, 0 },\n};\n'
