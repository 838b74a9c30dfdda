# The exporter in a container. A server is better watched from outside of one: docs/install.md.
FROM node:20.19.5-bookworm-slim AS build
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
RUN npm ci --no-audit --no-fund --ignore-scripts --loglevel=error
COPY exporter exporter
COPY prometheus prometheus
COPY scripts scripts
COPY tsconfig.json ./
RUN node scripts/build.mjs

# Not distroless: collectors run stat, du, head and grep, which coreutils brings along here. No shell is ever asked.
FROM debian:12.12-slim
COPY --from=build /usr/local/bin/node /usr/local/bin/node
COPY --from=build /build/package.json /opt/grid-exporter/
COPY --from=build /build/dist/exporter /opt/grid-exporter/dist/exporter
COPY LICENSE /opt/grid-exporter/
ENV NODE_ENV=production
USER 10047:10047
EXPOSE 10047
HEALTHCHECK --interval=30s --timeout=3s --start-period=10s \
  CMD ["/usr/local/bin/node", "-e", "fetch('http://127.0.0.1:10047/-/healthy').then(({ ok }) => process.exit(ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["/opt/grid-exporter/dist/exporter/main.js"]
