# The container hook of an actions runner, as a shell script: `bash -e` of the runner's choice becomes dockless.
# Written by `dockless github install`. Prefer dockless-hook.js: which bash reads this file, a job can choose by GITHUB_PATH.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
exec /opt/dockless/dockless github hook
