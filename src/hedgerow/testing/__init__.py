"""For tests of federations: real processes that may be killed, and links between them that may fail.

::

    with Federation(folder, proxied=True) as federation:
        federation.start_server()
        site = federation.start_client("a", "my_site:site", callable_dir)
        federation.wait_for_sessions(1)
        job = federation.start_driver(Path("driver.py"), federation.driver.text)
        site.kill()
        federation.links["blob"].cut()
        site.start()
        assert job.wait(Limit("job_s", 60)) == 0
"""

from hedgerow.testing.fault_proxy import FaultProxy
from hedgerow.testing.federation import Federation
from hedgerow.testing.processes import Process, eventually, free_port

__all__ = ["FaultProxy", "Federation", "Process", "eventually", "free_port"]
