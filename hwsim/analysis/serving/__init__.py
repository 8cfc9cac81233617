"""A service under load: requests, engines, pools, routers, step times."""
