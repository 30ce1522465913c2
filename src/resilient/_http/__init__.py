"""HTTP: the engine behind `resilient.httpx2`, `httpx`, `requests`, `aiohttp`.

================ =============================================================
response_headers what a server's headers say about when to come back; pure
standard         the pipeline that a transport has unless it is given one
exchange         one request, attempt by attempt: what may be sent again, and
                 how each attempt is judged
request_call     a request as the policies see it
rules            what a transport was told
client_library   which classes its client has
semantics        which methods and statuses may be repeated
stated           the timeouts that a client states, beside our limits
sdk              tell of an SDK whose retries multiply ours
holding          hold calls back whose server asked for less
faults, network  whose fault an error is, and what the bytes show
body_headers     what a response's headers say of its body
reading          a body that is read as part of the attempt
body             a response's body on its way to the caller
routing          where requests go that a `Balance` chooses an endpoint for
health_check     ask an endpoint whether it is well
engine           the transport, in two colours
foreign          requests of other clients, under the names that the engine uses
requests_client  what requests is made of, likewise
aiohttp_client   what aiohttp is made of, likewise
================ =============================================================

The two httpx libraries share no class: what a client of one catches, a
client of the other has never heard of. So nothing here imports either; each
thin module says by a `ClientLibrary` which classes are its own. requests has other
names for nearly everything, as has aiohttp: they stand in a module of each, which
its public one alone imports.

May import: `_calls`, `_edges`, `_errors`, `_events`, `_policy`, `_runtimes`,
`_values`, `policies`.
"""
