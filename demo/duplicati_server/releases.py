"""What sets the releases of Duplicati apart that the demo server can play, as one table.

Guards: that each difference has one name and one place; the rest of the server asks for the name
and knows no version numbers. Where the page of the protocol and a recording disagree, this is
the recording.
Leaves alone: what the differences look like on the wire: that is where they are used.
"""
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Release:
    """A release; the defaults are those of today's (the newest commit, after 2.3.1.0)."""
    version: str                    # ServerVersion of systeminfo
    name: str                       # ServerVersionName
    kind: str                       # ServerVersionType
    result_version: str             # Version of a result row
    is_legacy: bool = False         # cookies, a byte order mark, form bodies, reason phrases
    stars: int = 15                 # of the placeholder of a secret
    has_nonce: bool = True          # refreshing needs one; a cookie whatever RememberMe says
    has_auth_status: bool = True    # auth/status, pre-auth tokens
    has_v2: bool = True             # /api/v2, orderBy, skipQueue, HelpId, event type
    has_stop: bool = True           # task/N/stop; before: stopaftercurrentfile and stopnow
    has_task_times: bool = True     # and /tasks without the whole job in clear
    has_later_fields: bool = True   # ExternalID, ConnectionStringID, AdditionalTargetURLs
    has_operation_type: bool = True
    has_delete_versions: bool = True
    has_estimate: bool = True       # EstimatedTimeToCompletion
    masks_secrets: bool = True      # in GET backup/N, and puts them back at PUT
    doubles_days: bool = False      # AllowedDays twice over; long names at PUT are 400
    null_is_object: bool = True     # NULL in rows of a log is {}
    has_typed_settings: bool = True  # GET and PUT of one server setting work
    knows_unknown_settings: bool = True  # serversetting of an unknown name: null, else 404
    checks_update_interval: bool = True
    exports_database_name: bool = True   # DBPath of an export without its folder
    tells_failure: bool = True      # a task that failed says so; before: Completed
    row_of_missing_target: bool = False  # Fatal row of a run whose target is missing
    row_of_failure: bool = True     # Fatal row of a run that ended by an exception
    row_of_abort: str | None = "Error"   # ParsedResult of an aborted run; None: no row
    has_trace_of_abort: bool = True  # notification and LastErrorMessage of an aborted run
    row_of_stop: bool = True
    has_interrupted: bool = True    # the field (2.0.6.3 does not have it, nor --backup-id)
    tells_interrupted: bool = True  # and it is true after an abort or a stop
    row_of_listing: str = "all"     # operations of browsing: "all", "failed", "none"
    locks_database: bool = True     # 400 DatabaseLocked while a task has the database
    busy_database: str = "locked"   # filesets meanwhile: "locked", "partial", "fails", "waits"
    fails_without_match: bool = True  # a restore that matches nothing
    initial_phase: str = "Starting_Operation"
    lists_sources: bool = True      # Sources of the short form: [] or null
    cancellation: str = "A task was canceled."
    cancellation_type: str = "System.Threading.Tasks.TaskCanceledException"
    sizes_in_ki: bool = True        # KiB or KB in SourceSizeString
    clears_cookie_by_path: bool = True   # logout names domain and path of the cookie
    tells_temporary: bool = False   # POST backups?temporary=true says that it is so


TODAY = Release("1.0.0.0", "1.0.0.0", "Stable", "1.0.0.0 (Current)")

RELEASE_2_3 = replace(
    TODAY, version="2.3.0.4", name="2.3.0.4 - 2.3.0.4_stable_2026-07-09", kind="stable",
    result_version="2.3.0.4 (2.3.0.4_stable_2026-07-09)", has_operation_type=False,
    has_delete_versions=False, has_estimate=False, knows_unknown_settings=False,
    checks_update_interval=False, exports_database_name=False, row_of_abort="Fatal",
    tells_interrupted=False, locks_database=False, busy_database="partial",
    fails_without_match=False, clears_cookie_by_path=False, tells_temporary=True)

RELEASE_2_1 = replace(
    RELEASE_2_3, version="2.1.0.5", name=" - 2.1.0.5_stable_2025-03-04",
    result_version="2.1.0.5 (2.1.0.5_stable_2025-03-04)", stars=10, has_nonce=False,
    has_auth_status=False, has_v2=False, has_stop=False, has_task_times=False,
    has_later_fields=False, masks_secrets=False, doubles_days=True, has_typed_settings=False,
    tells_failure=False, row_of_missing_target=True, row_of_abort=None, has_trace_of_abort=False,
    row_of_stop=False, row_of_listing="none", busy_database="fails",
    initial_phase="Backup_Begin", lists_sources=False, sizes_in_ki=False)

RELEASE_2_0 = replace(
    RELEASE_2_1, version="2.0.8.1", name=" - 2.0.8.1_beta_2024-05-07", kind="beta",
    result_version="2.0.8.1 (2.0.8.1_beta_2024-05-07)", is_legacy=True, doubles_days=False,
    null_is_object=False, row_of_abort="Fatal", has_trace_of_abort=True, row_of_stop=True,
    row_of_listing="failed", busy_database="waits", cancellation="Thread was being aborted.",
    cancellation_type="System.Threading.ThreadAbortException")

RELEASES = {
    "2.0.6.3": replace(
        RELEASE_2_0, version="2.0.6.3", name=" - 2.0.6.3_beta_2021-06-17",
        result_version="2.0.6.3 (2.0.6.3_beta_2021-06-17)", row_of_missing_target=False,
        row_of_failure=False, row_of_abort=None, has_interrupted=False),
    "2.0.8.1": RELEASE_2_0,
    "2.1.0.5": RELEASE_2_1,
    "2.3.0.4": RELEASE_2_3,
    "today": TODAY,
}
