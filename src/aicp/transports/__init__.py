"""How a call reaches an agent: in this process, or over HTTP. Import the module you need; aiohttp loads with `http`."""
