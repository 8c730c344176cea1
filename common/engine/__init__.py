"""Engines: where work that outgrows one process runs.

`local` is this process and processes of this machine. `ray` is Ray Data on a cluster: `--engine ray` starts one on
this machine, `--ray-address HOST:PORT` joins one that runs. Both run the same functions on the same items, and what
they write has the same bytes.

What a real cluster needs:

* the project and its packages in one place on every node (one image, or a shared folder), and `ray start` run there
  by the Python of that environment, in the project's folder;
* the command itself run on a node of the cluster;
* PDFs, images and model folders under the same paths everywhere: workers read them where they are. Texts, vectors
  and codes travel through Ray;
* the cache on the node of the command: results come back to it, and it alone writes tables, pieces and shards. The
  cache of OCR alone is read and written where a page is read: shared or not, the results are the same.

A worker or node that is lost has its tasks run again (`ray_pool.RETRIES` times); a command that is killed goes on at
the missing pieces when it is run again, with either engine.
"""
