#!/bin/sh
# The shell of the action's step: makes the words of `dockless step` from its inputs, and becomes that. The runner appends the script.
set -euf

script=$1
# shellcheck source=ci-templates/github/step/find.sh
. "$(dirname "$0")/find.sh"
program=$(find_dockless) || { echo "::error::dockless is not installed" >&2; exit 127; }

set --
for service in ${DOCKLESS_ACTION_SERVICES:-}; do
    set -- "$@" --service "$service"
done
[ "${DOCKLESS_ACTION_DOCKER:-}" != true ] || set -- "$@" --docker
set -- "$@" --
for word in ${DOCKLESS_ACTION_SHELL:-"{0}"}; do
    case $word in
        *'{0}'*) set -- "$@" "${word%%'{0}'*}$script${word#*'{0}'}" ;;
        *) set -- "$@" "$word" ;;
    esac
done
# not a child: the runner signals one process only, and waits for that
exec "$program" step "$@"
