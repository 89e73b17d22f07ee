// The path at which the node serves this page: `/`, or the path prefix of a proxy. Everything that the page loads is below it.

export const BASE = new URL('..', import.meta.url).pathname;

/** A name in the browser's storage. Nodes at different prefixes of one host share that storage, but no names. */
export const storageName = (name) => (BASE === '/' ? name : `${name} ${BASE}`);
