#!/bin/sh
# Ends the containers of a job's steps at the job's end. For a self-hosted runner's .env, by an absolute path:
#   ACTIONS_RUNNER_HOOK_JOB_COMPLETED=/…/end.sh
# Without it they end as well, but what other users of the containers wrote to the workspace is not given back to the runner's account.
set -eu

# shellcheck source=ci-templates/github/step/find.sh
. "$(dirname "$0")/find.sh"
program=$(find_dockless) || exit 0
exec "$program" step --end
