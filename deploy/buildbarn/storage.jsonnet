// SPDX-License-Identifier: Apache-2.0
// Buildbarn's bb_storage as the CAS behind nginx and assetd, on one machine with one disk:
//
//     bb_storage /etc/buildbarn/storage.jsonnet
//
// To edit: `size`, and `blobSize` where artifacts are few and large, or many and small. All that is
// stored is below /var/lib/buildbarn, a folder that must be there and belong to the user that runs
// bb_storage; bb_storage.service, beside this file, makes it.

local GiB = 1024 * 1024 * 1024;

// What the content takes on the disk when it is full. The files have their sizes from the start, and
// take room as they fill: see that it stays free. Another size, or other numbers of blocks, empty
// the store.
local size = 50 * GiB;

// Bytes of a blob on average. The table of where blobs are has four entries for each blob of that
// size: in one that is too small, blobs are lost before their time. It takes 1/62 of `size`.
local blobSize = 16 * 1024;
local tableSize = std.ceil(size / blobSize) * 4 * 66;

// The store is a ring of blocks, each 1/38 of `size`, of which the oldest is emptied as a whole; a
// blob must fit into one. What a client asks for while it is in an `old` one is copied to a `new`
// one. So what was asked for stays until 8/38 of `size` were written since then: on the busiest day
// that must take far longer than `trust` of assetd.
local blocks = { old: 8, current: 24, new: 3, spare: 3 };

// '127.0.0.1:9980' serves figures for Prometheus at /metrics, and /-/healthy.
local diagnostics = '';

{
  grpcServers: [{
    // For nginx and assetd alone: everybody who can connect reads and writes, as it is nginx that
    // tells clients apart. Never an address that others can reach. Other users of this machine
    // are kept out by a unix socket, in the place of the next line: bb_storage.service makes its
    // folder, which the group buildbarn alone may enter.
    //   listenPaths: ['/run/buildbarn/storage.sock'],
    listenAddresses: ['127.0.0.1:8980'],
    authenticationPolicy: { allow: {} },
    // Where nginx or assetd is on another machine, TLS with certificates for both of them, in the
    // place of the two lines above:
    //   listenAddresses: ['[::]:8980'],
    //   tls: { serverKeyPair: { files: {
    //     certificatePath: '/etc/buildbarn/server.crt',
    //     privateKeyPath: '/etc/buildbarn/server.key',
    //     refreshInterval: '3600s',
    //   } } },
    //   authenticationPolicy: { tlsClientCertificate: {
    //     clientCertificateAuthorities: importstr '/etc/buildbarn/clients.crt',
    //     validationJmespathExpression: { expression: '`true`' },
    //     metadataExtractionJmespathExpression: { expression: '`{}`' },
    //   } },

    // One message of a client; nginx lets 17 MiB of BatchUpdateBlobs through.
    maximumReceivedMessageSizeBytes: 17 * 1024 * 1024,

    // The name that gRPC health checks ask for: none, which is the server as a whole.
    healthCheckService: '',
  }],

  // Bytes of blobs that one BatchReadBlobs may ask for. BuildStream and assetd stay below it.
  maximumMessageSizeBytes: 4 * 1024 * 1024,

  contentAddressableStorage: {
    getAuthorizer: { allow: {} },
    putAuthorizer: { allow: {} },
    findMissingAuthorizer: { allow: {} },
    backend: {
      'local': {
        oldBlocks: blocks.old,
        currentBlocks: blocks.current,
        newBlocks: blocks.new,
        blocksOnBlockDevice: {
          source: { file: { path: '/var/lib/buildbarn/content', sizeBytes: size } },
          spareBlocks: blocks.spare,
          // What was read and had the right hash is not hashed again for so long.
          dataIntegrityValidationCache: {
            cacheSize: 100000,
            cacheDuration: '14400s',
            cacheReplacementPolicy: 'LEAST_RECENTLY_USED',
          },
        },
        keyLocationMapOnBlockDevice: {
          file: { path: '/var/lib/buildbarn/table', sizeBytes: tableSize },
        },
        keyLocationMapMaximumGetAttempts: 16,
        keyLocationMapMaximumPutAttempts: 64,

        // Without this each start is with an empty store. With it, a stop by SIGTERM keeps all. A
        // kill or a power cut loses what was uploaded within the last interval, and some of what
        // was there before; assetd finds out at its next check.
        persistent: {
          stateDirectoryPath: '/var/lib/buildbarn',
          minimumEpochInterval: '10s',
        },

        // All instance names are served, `""` and team/kernel among them, and have one store: who
        // may read reads a blob under any of them. With `true` what was uploaded as team/kernel
        // is found as team/kernel and below it alone, what was uploaded as "" by all.
        hierarchicalInstanceNames: false,
      },
    },
  },

  // No actionCache: BuildStream needs none, and its methods are UNIMPLEMENTED.

  [if diagnostics != '' then 'global']: {
    diagnosticsHttpServer: {
      httpServers: [{
        listenAddresses: [diagnostics],
        authenticationPolicy: { allow: {} },
      }],
      enablePrometheus: true,
    },
  },
}
