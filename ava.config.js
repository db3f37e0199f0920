export default {
  files: ['__test__/**/*.spec.ts'],
  extensions: { ts: 'module' },
  nodeArguments: ['--import=tsx', '--expose-gc'],
  // An addon is tested in processes: a crash must not take other tests with it.
  workerThreads: false,
  timeout: '5m',
}
