"""Many photos of a folder or an object store, each edited once, by one server or several.

`stores` reads photos and writes images, `job` says what to do and what is done already, `workers`
and `ray_workers` edit photos on servers, and `scheduler` hands them out.
"""
