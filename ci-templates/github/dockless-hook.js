// The container hook of an actions runner: starts dockless, passes the runner's signals on to it, and ends as it does.
// Written by `dockless github install`. node cannot exec, so this process stays; the runner signals nothing but it.
'use strict';
const { spawn } = require('child_process');
const { constants } = require('os');

const command = ["/opt/dockless/dockless", "github", "hook"];
// jobs can put directories in front of the PATH that comes here
const env = { ...process.env, PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' };
const child = spawn(command[0], command.slice(1), { stdio: 'inherit', env });
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => child.kill(signal));
}
child.on('error', (error) => {
  console.log(`::error::dockless cannot be started: ${error.message}`);
  process.exit(1);
});
child.on('exit', (code, signal) => {
  process.exit(signal ? 128 + constants.signals[signal] : code);
});
