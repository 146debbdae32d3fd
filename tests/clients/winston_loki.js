// Logs lines through winston and winston-loki, as protobuf or as JSON: URL COUNT protobuf|json.
const winston = require('winston')
const LokiTransport = require('winston-loki')

const [url, count, form] = process.argv.slice(2)
const transport = new LokiTransport({
  host: url,
  labels: { job: 'winston', form },
  json: form === 'json',
  interval: 1,
  format: winston.format.printf(({ message }) => message),
  onConnectionError: error => {
    console.error(error)
    process.exit(1)
  }
})
const logger = winston.createLogger({ transports: [transport] })
for (let number = 0; number < Number(count); number++) {
  // As protobuf, it escapes no label.
  logger.info(`line ${number}: "quoted", \\ and ü`, { labels: { odd: 'a, b' } })
}
logger.on('finish', async () => {
  await transport.flush()
  process.exit(0)
})
logger.end()
