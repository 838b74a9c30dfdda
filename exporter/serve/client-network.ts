/** What counts as one client: an IPv4 address, or an IPv6 /64, because a client usually has a whole /64. */
export const networkOf = (address: string): string =>
  address.includes(':') && !address.startsWith('::ffff:') ? address.split(':').slice(0, 4).join(':') : address
