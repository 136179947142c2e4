"""What the server says of itself: an OpenAPI document made from the routes; from that, a page and the reference."""
