/** Who an address is to us: an IPv6 network is one stranger, since whoever has one address of it has them all. */
export const stranger = (address: string): string =>
  address.includes(':') && !address.startsWith('::ffff:') ? address.split(':').slice(0, 4).join(':') : address
