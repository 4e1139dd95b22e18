#!/usr/bin/env node
// Runs the program of the platform package, with this process's standard input, output and error. Passes on signals, and
// exits as the program does. The exit codes 126 and 127 mean what they mean in a shell: it cannot be run, not found.
'use strict';

const { spawn } = require('node:child_process');

const platform = `${process.platform}-${process.arch}`;
const platforms = Object.keys(require('../package.json').optionalDependencies);
const name = `@spa-knock/${platform}`;

function fail(code, problem, hint) {
  console.error(`spa-knock: ${problem}\nhint: ${hint}`);
  process.exit(code);
}

function program() {
  if (!platforms.includes(name)) {
    const known = platforms.map((each) => each.split('/')[1]).join(', ');
    fail(127, `no program for ${platform}, only for ${known}`, 'build it from source, with Rust');
  }
  try {
    return require.resolve(`${name}/bin/spa-knock${process.platform === 'win32' ? '.exe' : ''}`);
  } catch {
    fail(
      127,
      `${name}: not installed; npm omits it with --omit=optional, and with a lock file of another platform`,
      'npm install --include=optional spa-knock (without the lock file, if that does not help)',
    );
  }
}

// Before the start, so that no signal ends this process alone. After Ctrl-C, the terminal signals both; the program
// decides when to exit.
let child;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));

child = spawn(program(), process.argv.slice(2), { stdio: 'inherit' });
child.on('error', (error) => fail(126, error.message, `npm install --force spa-knock`));
child.on('exit', (code, signal) => {
  if (signal === null) process.exit(code);
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
});
