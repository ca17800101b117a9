"""Many photos of a folder or an object store: each edited once, by one server or many.

`stores` holds photos and pictures, `job` says what is to be done and what is done already,
`lanes` carries it to the servers, `schedule` keeps them all at work; `on_ray` is the lanes of a
Ray cluster.
"""
